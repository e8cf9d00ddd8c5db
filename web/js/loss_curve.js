// Live loss curve inside the nodes Train Motion Model and Train Motion Adapter.
// Every message holds the whole curve so far, so a page that was reloaded catches up with the next one.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const NODES = ["MotionBlocksTrainMotionModel", "MotionBlocksTrainAdapter"];
const EVENT = "motionblocks.loss"; // {node, num_steps, points: [[step, loss], ...]}
const HEIGHT = 120;
const SMOOTH = 0.85; // share of the past in the thick line
const PAD = 6;
const TEXT = 16; // px of the line above the curve

const views = new WeakMap(); // node -> {canvas, curve}

// The node of an id such as "7" or, inside subgraphs, "3:7"; null when it is not in the open workflow.
function nodeOf(id) {
  let graph = app.rootGraph ?? app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(part) ?? graph?.getNodeById(Number(part)) ?? null;
    graph = node?.subgraph;
  }
  return NODES.includes(node?.comfyClass) ? node : null;
}

function cleaned(points) {
  return (Array.isArray(points) ? points : []).filter((p) => Number.isFinite(p?.[0]) && Number.isFinite(p?.[1]));
}

function smoothed(points) {
  let mean = points[0][1];
  return points.map(([step, loss]) => [step, (mean = SMOOTH * mean + (1 - SMOOTH) * loss)]);
}

function drawLine(pen, points, toX, toY, colour, width) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.beginPath();
  points.forEach(([step, loss], index) => pen[index ? "lineTo" : "moveTo"](toX(step), toY(loss)));
  pen.stroke();
}

function draw({ canvas, curve }) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (!width || !height) return; // not on the page
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  const theme = getComputedStyle(canvas);
  pen.scale(scale, scale);
  pen.font = "11px sans-serif";
  pen.fillStyle = theme.color;
  if (!curve.points.length) {
    pen.fillText("loss curve: appears while training", PAD, TEXT - 3);
    return;
  }
  const [step, loss] = curve.points.at(-1);
  pen.fillText(`step ${step} of ${curve.numSteps}   loss ${loss.toPrecision(4)}`, PAD, TEXT - 3);
  const losses = curve.points.map((point) => point[1]);
  const low = Math.min(...losses);
  const span = Math.max(...losses) - low || 1;
  const first = curve.points[0][0];
  const toX = (at) => PAD + ((at - first) / Math.max(curve.numSteps - first, 1)) * (width - 2 * PAD);
  const toY = (value) => height - PAD - ((value - low) / span) * (height - TEXT - 2 * PAD);
  pen.lineJoin = "round";
  drawLine(pen, curve.points, toX, toY, "rgba(140, 140, 140, 0.6)", 1);
  drawLine(pen, smoothed(curve.points), toX, toY, "#e8902c", 2);
  if (curve.points.length === 1) pen.fillRect(toX(step) - 1, toY(loss) - 1, 3, 3);
}

function show(id, message) {
  const node = nodeOf(id);
  const view = node && views.get(node);
  if (!view || !message) return;
  view.curve = { points: cleaned(message.points), numSteps: Number(message.num_steps) || 0 };
  draw(view);
}

function addCurve(node) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas.style, { width: "100%", height: "100%", minHeight: `${HEIGHT}px`, boxSizing: "border-box" });
  Object.assign(canvas.style, { color: "var(--input-text, #ddd)", background: "var(--comfy-input-bg, #222)" });
  canvas.style.borderRadius = "6px";
  canvas.dataset.motionblocks = "loss";
  const view = { canvas, curve: { points: [], numSteps: 0 } };
  views.set(node, view);
  const widget = node.addDOMWidget("loss_curve", "canvas", canvas, {
    serialize: false,
    hideOnZoom: false,
    getMinHeight: () => HEIGHT,
    getMaxHeight: () => HEIGHT,
  });
  widget.serialize = false; // neither in the prompt nor in the saved workflow
  const least = node.computeSize();
  node.setSize([Math.max(node.size[0], least[0]), Math.max(node.size[1], least[1] + 20)]); // room for the curve
  const watcher = new ResizeObserver(() => draw(view));
  watcher.observe(canvas);
  const onRemoved = node.onRemoved;
  node.onRemoved = function (...given) {
    watcher.disconnect();
    views.delete(node);
    return onRemoved?.apply(this, given);
  };
}

app.registerExtension({
  name: "MotionBlocks.LossCurve",
  setup() {
    api.addEventListener(EVENT, ({ detail }) => show(detail?.node, detail));
    api.addEventListener("executed", ({ detail }) => {
      show(detail?.display_node ?? detail?.node, detail?.output?.motionblocks_loss?.[0]); // also of cached runs
    });
  },
  nodeCreated(node) {
    if (NODES.includes(node.comfyClass)) addCurve(node);
  },
});
