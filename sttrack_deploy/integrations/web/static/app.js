// The page: a local video or the camera, a box drawn on a frame, the track drawn beside its confidence.
import * as ort from "./onnxruntime-web/ort.wasm.bundle.min.mjs";
import { Network, Tracker, validateBox } from "./sttrack.js";

const $ = (id) => document.getElementById(id);
const view = $("view"), chart = $("chart"), place = $("place");
const pen = view.getContext("2d");
const source = document.createElement("video");
source.muted = source.playsInline = true;
const grabber = new OffscreenCanvas(1, 1);
const lens = grabber.getContext("2d", { willReadFrequently: true });

let network = null, tracker = null;
let live = false; // the camera: frames that come while one is computed are skipped
let frame = null; // {width, height, data, number, time}
let drawn = null; // the box given, not yet tracked
let running = false, dragging = null;
let results = []; // {frame, time, box, confidence, lost}
let speed = 0;

function say(text, lost = false) {
  $("status").textContent = text;
  $("status").className = lost ? "lost" : "";
}

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// --- frames --------------------------------------------------------------------------------------------

function grab(number, time) {
  const width = source.videoWidth, height = source.videoHeight;
  if (grabber.width !== width || grabber.height !== height) [grabber.width, grabber.height] = [width, height];
  lens.drawImage(source, 0, 0);
  const { data } = lens.getImageData(0, 0, width, height);
  frame = { width, height, data, number, time };
}

const rate = () => Math.max(1, Number($("fps").value) || 30);
const last = () => Math.max(0, Math.round(source.duration * rate()) - 1);

/** Show a frame of the file, by its number; the middle of its time, so that rounding cannot give its neighbor. */
async function seek(number) {
  const time = Math.min((number + 0.5) / rate(), Math.max(0, source.duration - 0.001));
  if (Math.abs(source.currentTime - time) > 1e-6) {
    const arrived = new Promise((resolve) => source.addEventListener("seeked", resolve, { once: true }));
    source.currentTime = time;
    await arrived;
  }
  grab(number, number / rate());
  place.value = number;
}

/** The frame rate, from the times of the first frames; null where the browser does not tell them. */
async function measuredRate() {
  if (!("requestVideoFrameCallback" in source)) return null;
  const times = [];
  const enough = new Promise((resolve) => {
    const note = (_, { mediaTime }) => {
      times.push(mediaTime);
      if (times.length > 12) resolve();
      else source.requestVideoFrameCallback(note);
    };
    source.requestVideoFrameCallback(note);
    source.addEventListener("ended", resolve, { once: true });
    setTimeout(resolve, 2000);
  });
  await source.play();
  await enough;
  source.pause();
  const steps = times.slice(1).map((time, i) => time - times[i]).filter((step) => step > 1e-4);
  return steps.length ? Math.round(1000 / Math.min(...steps)) / 1000 : null;
}

async function openFile(file) {
  stop();
  live = false;
  source.srcObject = null;
  if (source.src) URL.revokeObjectURL(source.src);
  const ready = new Promise((resolve, reject) => {
    source.onloadeddata = resolve;
    source.onerror = () => reject(new Error(`this browser cannot play ${file.name}`));
  });
  source.src = URL.createObjectURL(file);
  await ready;
  const found = await measuredRate();
  if (found !== null) $("fps").value = found;
  await opened(`${file.name}, ${source.videoWidth} × ${source.videoHeight}`);
}

async function openCamera() {
  stop();
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  live = true;
  source.srcObject = stream;
  await source.play();
  await opened("camera");
}

async function opened(name) {
  renew();
  place.disabled = live;
  if (live) grab(0, 0);
  else {
    place.max = last();
    await seek(0);
  }
  [view.width, view.height] = [frame.width, frame.height];
  // The buttons below it stay in sight.
  view.style.width = `min(100%, ${(62 * frame.width) / frame.height}vh)`;
  say(`${name}. Drag a box around the target, then press Track.`);
  show();
  if (live) preview();
}

function preview() {
  if (!live || running) return;
  grab(frame.number, 0);
  show();
  requestAnimationFrame(preview);
}

// --- tracking ------------------------------------------------------------------------------------------

function renew() {
  drawn = null;
  tracker = null;
  results = [];
  buttons();
}

function note(result) {
  const { box, confidence, lost } = result;
  const before = results[results.length - 1];
  // Corrected or gone back: what was tracked from there on is void.
  if (before && before.frame >= frame.number) results = results.filter((old) => old.frame < frame.number);
  results.push({ frame: frame.number, time: frame.time, box, confidence, lost });
  $("confidence").textContent = confidence.toFixed(2);
  say(lost ? `Frame ${frame.number}: LOST` : `Frame ${frame.number}: ${speed ? `${speed.toFixed(1)} frames a second` : "tracking"}`, lost);
  $("box").value = box.map((value) => value.toFixed(1)).join(",");
}

/** Start on the box that was drawn, if one was. */
async function begin() {
  if (drawn === null) return;
  tracker ??= new Tracker(network);
  note(await tracker.init(frame, drawn));
  drawn = null;
}

async function advance() {
  if (live) {
    await new Promise((resolve) => ("requestVideoFrameCallback" in source ? source.requestVideoFrameCallback(resolve) : requestAnimationFrame(resolve)));
    grab(frame.number + 1, source.currentTime);
  } else {
    if (frame.number >= last()) return false;
    await seek(frame.number + 1);
  }
  const started = performance.now();
  const result = await tracker.update(frame);
  const now = 1000 / (performance.now() - started);
  speed = speed ? speed + 0.1 * (now - speed) : now;
  note(result);
  show();
  return true;
}

async function run() {
  if (running || (tracker === null && drawn === null)) return;
  running = true;
  buttons();
  try {
    await begin();
    while (running && (await advance()));
    if (running) say(`Done: ${results.length} frames, lost on ${results.filter((r) => r.lost).length}.`);
  } finally {
    running = false;
    buttons();
    if (live) preview();
  }
}

function stop() {
  running = false;
}

async function once() {
  if (running || (tracker === null && drawn === null)) return;
  await begin();
  await advance();
  buttons();
}

// --- drawing -------------------------------------------------------------------------------------------

function show() {
  if (frame === null) return;
  pen.drawImage(grabber, 0, 0);
  const given = dragging?.box ?? drawn;
  const latest = results[results.length - 1];
  const width = Math.max(2, frame.width / 320);
  pen.lineWidth = width;
  if (given) outline(given, color("--accent"), []);
  else if (latest && latest.frame === frame.number) {
    const ink = color(latest.lost ? "--lost" : "--found");
    outline(latest.box, ink, latest.lost ? [4 * width, 3 * width] : []);
    label(latest.box, latest.lost ? "LOST" : latest.confidence.toFixed(2), ink);
  }
  plot();
}

function outline([x, y, w, h], ink, dash) {
  pen.setLineDash(dash);
  pen.strokeStyle = ink;
  pen.strokeRect(x, y, w, h);
}

function label([x, y], text, ink) {
  const size = Math.max(12, frame.width / 40);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const width = pen.measureText(text).width + size * 0.6;
  const left = Math.min(Math.max(0, x), frame.width - width), top = Math.max(0, y - size * 1.4);
  pen.fillStyle = ink;
  pen.fillRect(left, top, width, size * 1.3);
  pen.fillStyle = "#fff";
  pen.fillText(text, left + size * 0.3, top + size);
}

function plot() {
  const canvas = chart, ink = canvas.getContext("2d");
  const scale = window.devicePixelRatio || 1, width = canvas.clientWidth * scale, height = canvas.clientHeight * scale;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  ink.clearRect(0, 0, width, height);
  const y = (value) => height - 4 - value * (height - 8);
  ink.setLineDash([4, 4]);
  ink.strokeStyle = color("--line");
  line(ink, [[0, y(network.manifest.tracking.lost_below)], [width, y(network.manifest.tracking.lost_below)]]);
  ink.setLineDash([]);
  if (!results.length) return;
  const first = results[0].frame, count = Math.max(60, results[results.length - 1].frame - first + 1);
  const x = (number) => ((number - first) / count) * width;
  ink.fillStyle = color("--lost");
  for (const { frame: number, lost } of results) if (lost) ink.fillRect(x(number), height - 4, Math.max(1, width / count), 4);
  ink.strokeStyle = color("--accent");
  ink.lineWidth = 2;
  line(ink, results.map(({ frame: number, confidence }) => [x(number), y(confidence)]));
}

function line(ink, points) {
  ink.beginPath();
  points.forEach(([x, y], i) => (i ? ink.lineTo(x, y) : ink.moveTo(x, y)));
  ink.stroke();
}

function buttons() {
  const ready = network !== null && frame !== null && (tracker !== null || drawn !== null);
  $("track").disabled = !ready;
  $("track").textContent = running ? "Pause" : "Track";
  $("step").disabled = !ready || running;
  $("clear").disabled = !ready || running;
  for (const id of ["boxes", "lines"]) $(id).disabled = results.length === 0;
  place.disabled = live || running || frame === null;
}

// --- what people do ------------------------------------------------------------------------------------

function point(event) {
  const bounds = view.getBoundingClientRect();
  return [
    ((event.clientX - bounds.left) / bounds.width) * view.width,
    ((event.clientY - bounds.top) / bounds.height) * view.height,
  ];
}

view.addEventListener("pointerdown", (event) => {
  if (frame === null || running) return;
  view.setPointerCapture(event.pointerId);
  dragging = { from: point(event), box: null };
});
view.addEventListener("pointermove", (event) => {
  if (dragging === null) return;
  const [a, b] = dragging.from, [x, y] = point(event);
  dragging.box = [Math.min(a, x), Math.min(b, y), Math.abs(x - a), Math.abs(y - b)];
  show();
});
view.addEventListener("pointerup", () => {
  const box = dragging?.box;
  dragging = null;
  if (box) give(box);
});

function give(box) {
  try {
    drawn = validateBox(box, frame.height, frame.width);
    $("box").value = drawn.map((value) => value.toFixed(1)).join(",");
    say("Press Track.");
  } catch (error) {
    say(error.message, true);
  }
  buttons();
  show();
}

const safely = (action) => async (...values) => {
  try {
    await action(...values);
  } catch (error) {
    say(error.message ?? String(error), true);
  }
};
const toggle = safely(async () => (running ? stop() : await run()));

$("file").addEventListener("change", safely(async ({ target }) => target.files.length && (await openFile(target.files[0]))));
$("camera").addEventListener("click", safely(openCamera));
$("track").addEventListener("click", toggle);
$("step").addEventListener("click", safely(once));
$("clear").addEventListener("click", () => {
  renew();
  say("Drag a box around the target.");
  show();
});
$("box").addEventListener("change", ({ target }) => {
  if (frame !== null && !running) give(target.value.split(/[\s,]+/).filter(Boolean).map(Number));
});
$("fps").addEventListener("change", safely(async () => {
  if (frame === null || live || running) return;
  place.max = last();
  await seek(0);
  show();
}));
place.addEventListener("input", safely(async () => {
  if (running) return;
  await seek(Number(place.value));
  show();
}));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=text], input[type=number], button, label")) return;
  if (event.key === " ") toggle();
  else if (event.key === "ArrowRight" && event.target !== place) $("step").click();
  else if (event.key === "n") $("clear").click();
  else return;
  event.preventDefault();
});

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
$("boxes").addEventListener("click", () =>
  download("boxes.txt", results.map(({ box }) => box.map((value) => value.toFixed(2)).join(",") + "\n").join("")));
$("lines").addEventListener("click", () =>
  download("track.jsonl", results.map((result) => JSON.stringify(result) + "\n").join("")));

async function load() {
  network = await Network.open(ort, new URL("bundle/", location.href), navigator.hardwareConcurrency || 1);
  const { name, precision } = network.manifest;
  $("model").textContent = `${name}, ${precision.name}`;
  document.body.dataset.ready = "yes";
  buttons();
}
load().catch((error) => say(`The network cannot be loaded: ${error.message}`, true));
window.results = () => results; // for scripts
