// Graphs saved with 0.1 keep what they showed: their Photo to Video has no values for the widgets that came later.
import { app } from "../../../scripts/app.js";

const NODE = "MotionBlocksImageToVideo";
const SAVED = 3; // widgets of 0.1: num_frames, dynamics, batch_size
const AS_BEFORE = { longer: "go on", edges: "as in 0.1" };

app.registerExtension({
  name: "MotionBlocks.FirstEdition",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name !== NODE) return;
    const configure = nodeType.prototype.onConfigure;
    nodeType.prototype.onConfigure = function (saved) {
      configure?.apply(this, arguments);
      const values = saved?.widgets_values;
      if (!Array.isArray(values) || values.length > SAVED) return;
      for (const widget of this.widgets ?? []) {
        if (widget.name in AS_BEFORE) widget.value = AS_BEFORE[widget.name];
      }
    };
  },
});
