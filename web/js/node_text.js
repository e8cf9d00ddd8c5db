// Text under our nodes: lines break between words, and the node grows until its last line is seen.
// The host draws the text; we mark its widget as it is added, and style only what is marked.
import { app } from "../../../scripts/app.js";

const PREFIX = "MotionBlocks"; // of our node types
const TEXT = "$$node-text-preview"; // the host's widget for what a running node says
const MARK = "data-motionblocks-text"; // widget id
const MOST = 400; // px; longer texts scroll
const PLACED = 0.6; // share of the node's width from which the page has put the text into its place
const LOOKS = 40; // frames to wait until the page has drawn the widget
const STYLE = `
[${MARK}] { max-height: ${MOST}px !important; }
[${MARK}] .break-all { word-break: normal; overflow-wrap: anywhere; }
.widget-markdown[node-type^="${PREFIX}"] .comfy-markdown-content { height: auto; max-height: ${MOST}px; }
.widget-markdown[node-type^="${PREFIX}"] .comfy-markdown-content p { white-space: pre-line; overflow-wrap: anywhere; }
`;

function fit(node, widget, box) {
  const lines = box.firstElementChild;
  if (!lines?.offsetHeight || box.offsetWidth < PLACED * node.size[0]) return; // not on the page, or not in its place
  const { paddingTop, paddingBottom } = getComputedStyle(box);
  const inside = lines.offsetHeight + parseFloat(paddingTop) + parseFloat(paddingBottom);
  widget.motionblocksHeight = Math.min(MOST, Math.ceil(inside)) + 2 * (widget.margin ?? 10);
  const least = node.computeSize()[1];
  if (node.size[1] < least) node.setSize([node.size[0], least]);
  node.setDirtyCanvas?.(true, true);
}

function watch(node, widget, looks = LOOKS) {
  const box = document.querySelector(`[${MARK}="${CSS.escape(widget.id)}"]`);
  if (!box?.firstElementChild) {
    if (looks && node.widgets?.includes(widget)) requestAnimationFrame(() => watch(node, widget, looks - 1));
    return;
  }
  const watcher = new ResizeObserver(() => fit(node, widget, box));
  watcher.observe(box.firstElementChild);
  const onRemove = widget.onRemove;
  widget.onRemove = function (...given) {
    watcher.disconnect();
    return onRemove?.apply(this, given);
  };
}

function mark(widget) {
  widget.props = { ...widget.props, [MARK]: widget.id };
  const getMinHeight = widget.options?.getMinHeight;
  if (getMinHeight) {
    widget.options.getMinHeight = () => Math.max(getMinHeight.call(widget.options), widget.motionblocksHeight ?? 0);
  }
}

app.registerExtension({
  name: "MotionBlocks.NodeText",
  setup() {
    const style = document.createElement("style");
    style.textContent = STYLE;
    document.head.append(style);
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith(PREFIX)) return;
    const addCustomWidget = node.addCustomWidget;
    node.addCustomWidget = function (widget, ...more) {
      const isText = widget?.name === TEXT && widget.component;
      if (isText) mark(widget); // before the page draws it
      const added = addCustomWidget.call(this, widget, ...more);
      if (isText) watch(node, widget);
      return added;
    };
  },
});
