// The page asks for a picture, draws it with what it says, and asks for the next one.

import { Timeline } from "./timeline.js";

const EMOTIONS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"];
const SHORT = { angry: "ang", disgust: "dis", fear: "fea", happy: "hap", sad: "sad", surprise: "sur", neutral: "neu" };
// Two requests under way hide the time to the server and back.
const AHEAD = 2;
const SILENT_S = 3;
const RETRY_MS = [500, 1000, 2000, 5000];
const CARDS_EVERY_MS = 100;
const MOST_CARDS = 24;
// A lost face's card stays so long, or the list would jump at each miss.
const CARD_STAYS_MS = 400;

const find = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const style = getComputedStyle(document.documentElement);
const colours = Object.fromEntries([...EMOTIONS, "uncertain"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
const timeline = new Timeline(find("timeline"), EMOTIONS, colours);

const tiles = new Map(); // stream -> { box, canvas, caption, number }
const cards = new Map(); // key of a track -> { item, parts, seenAt }
const faces = new Map(); // key of a track -> { stream, face, size, seenAt }
const heardAt = new Map(); // stream -> when its last record came
let socket = null;
let attempts = 0;
let paused = false;
let ended = false;
let lastPictureAt = 0;
let stats = null;
let lastStages = null;

// -- the connection

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    attempts = 0;
    ended = false;
    for (const tile of tiles.values()) tile.number = 0; // the server may be another one
    for (let i = 0; i < AHEAD; i++) ask(0);
    showState();
  };
  socket.onmessage = ({ data }) => (typeof data === "string" ? takeStats(JSON.parse(data)) : takeFrame(data));
  socket.onclose = ({ code }) => {
    socket = null;
    held.length = 0;
    ended = ended || code === 1001;
    const wait = ended ? RETRY_MS.at(-1) : RETRY_MS[Math.min(attempts++, RETRY_MS.length - 1)];
    showState();
    setTimeout(connect, wait);
  };
}

const held = []; // messages that a pause holds back: as many as were asked for

function ask(drew) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ drew, picture: !document.hidden }));
}

async function takeFrame(data, late = false) {
  if (paused) {
    held.push(data);
    return;
  }
  const from = socket;
  const headLength = new DataView(data).getUint32(0);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, headLength)));
  takeFaces(head);
  const jpeg = new Uint8Array(data, 4 + headLength);
  if (jpeg.length) await drawPicture(head, jpeg);
  if (from === socket) ask(late ? 0 : head.number);
}

async function drawPicture(head, jpeg) {
  const bitmap = await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
  const tile = tileOf(head.stream, head.record.source);
  if (head.number > tile.number) {
    tile.number = head.number;
    if (tile.canvas.width !== bitmap.width || tile.canvas.height !== bitmap.height) {
      [tile.canvas.width, tile.canvas.height] = [bitmap.width, bitmap.height];
    }
    tile.canvas.getContext("2d").drawImage(bitmap, 0, 0);
    lastPictureAt = performance.now();
    if (document.documentElement.dataset.state !== "live") showState();
  }
  bitmap.close();
}

// -- video

function tileOf(stream, source) {
  let tile = tiles.get(stream);
  if (!tile) {
    const box = document.createElement("div");
    const canvas = document.createElement("canvas");
    const caption = document.createElement("p");
    box.className = "tile";
    canvas.setAttribute("role", "img");
    box.append(canvas, caption);
    tile = { box, canvas, caption, number: 0, source: null };
    tiles.set(stream, tile);
    arrangeTiles();
  }
  if (tile.source !== source) {
    tile.source = tile.caption.textContent = source;
    tile.canvas.setAttribute("aria-label", `Live video of ${source}`);
  }
  return tile;
}

function arrangeTiles() {
  const ordered = [...tiles.entries()].sort(([a], [b]) => a - b).map(([, tile]) => tile.box);
  find("grid").replaceChildren(...ordered);
  find("grid").dataset.many = ordered.length > 1 ? "yes" : "no";
  const columns = Math.max(1, Math.ceil(Math.sqrt(ordered.length)));
  find("grid").style.setProperty("--columns", columns);
  find("grid").style.setProperty("--rows", Math.max(1, Math.ceil(ordered.length / columns)));
}

// -- faces

function takeFaces(head) {
  const now = performance.now();
  heardAt.set(head.stream, now);
  for (const face of head.record.faces) {
    if (face.track_id === null) continue;
    const key = `${head.stream}/${face.track_id}`;
    faces.set(key, { stream: head.stream, face, size: head.size, seenAt: now });
    timeline.add(key, `#${face.track_id}`, now, face);
  }
}

// By the time of the stream, not ours: where it stands still, its faces do.
function showFaces() {
  for (const [key, { stream, seenAt }] of faces) {
    if (!heardAt.has(stream) || heardAt.get(stream) - seenAt > CARD_STAYS_MS) faces.delete(key);
  }
  for (const key of cards.keys()) {
    if (!faces.has(key)) dropCard(key);
  }
  for (const [key, seen] of faces) {
    if (cards.has(key) || cards.size < MOST_CARDS) fillCard(cardOf(key), seen);
  }
  setText(find("faces-count"), faces.size);
}

function dropCard(key) {
  cards.get(key).item.remove();
  cards.delete(key);
}

function cardOf(key) {
  let card = cards.get(key);
  if (card) return card;
  const item = find("card").content.firstElementChild.cloneNode(true);
  const parts = Object.fromEntries(["thumb", "track", "emotion", "percent", "gender", "bars"].map((name) => [name, item.querySelector(`.${name}`)]));
  parts.levels = EMOTIONS.map((emotion) => {
    const bar = document.createElement("li");
    bar.style.setProperty("--tone", `var(--${emotion})`);
    bar.title = emotion;
    const groove = document.createElement("span");
    const level = document.createElement("i");
    const name = document.createElement("span");
    groove.className = "bar";
    name.textContent = SHORT[emotion];
    name.setAttribute("aria-hidden", "true");
    groove.append(level);
    bar.append(groove, name);
    parts.bars.append(bar);
    return { bar, level };
  });
  card = { item, parts };
  cards.set(key, card);
  find("cards").append(item);
  return card;
}

function fillCard({ item, parts }, { stream, face, size }) {
  const probs = face.emotion_smoothed ?? {};
  const emotion = face.emotion ?? "uncertain";
  item.style.setProperty("--tone", `var(--${emotion})`);
  setText(parts.track, `#${face.track_id}`);
  setText(parts.emotion, face.emotion ?? "not read yet");
  setText(parts.percent, emotion in probs ? `${Math.round(100 * probs[emotion])} %` : "");
  setText(parts.gender, face.gender ? `${face.gender} ${Math.round(100 * face.gender_prob)} %` : "");
  EMOTIONS.forEach((name, index) => {
    const { bar, level } = parts.levels[index];
    const share = probs[name] ?? 0;
    level.style.transform = `scaleY(${share.toFixed(3)})`;
    bar.setAttribute("aria-label", `${name} ${Math.round(100 * share)} %`);
  });
  drawThumb(parts.thumb, tiles.get(stream)?.canvas, face.box, size);
}

// The face with a little around it, cut from the picture that is shown anyway.
function drawThumb(thumb, picture, [x0, y0, x1, y1], [width, height]) {
  if (!picture?.width) return;
  const scale = picture.width / width;
  const side = Math.min(1.25 * Math.max(x1 - x0, y1 - y0), width, height);
  const left = Math.min(Math.max(0, (x0 + x1 - side) / 2), width - side);
  const top = Math.min(Math.max(0, (y0 + y1 - side) / 2), height - side);
  const pen = thumb.getContext("2d");
  pen.drawImage(picture, left * scale, top * scale, side * scale, side * scale, 0, 0, thumb.width, thumb.height);
}

// -- figures

function takeStats(news) {
  if (stats && news.frames < stats.frames) startAnew();
  stats = news;
  ended = news.ended;
  for (const stream of tiles.keys()) {
    if (!news.streams.some((each) => each.stream === stream)) {
      tiles.delete(stream);
      heardAt.delete(stream);
      arrangeTiles();
    }
  }
  for (const each of news.streams) {
    const tile = tileOf(each.stream, each.source);
    const silent = each.silent_s > SILENT_S && !ended;
    tile.box.toggleAttribute("data-silent", silent);
    setText(tile.caption, silent ? `${each.source}: no frames for ${Math.round(each.silent_s)} s` : each.source);
  }
  showNumbers();
  showStages();
  showRecorder();
  showState();
}

// Another run: its tracks are other people.
function startAnew() {
  timeline.tracks.clear();
  faces.clear();
  lastPictureAt = 0;
  lastStages = null;
}

function showNumbers() {
  const rates = stats.streams.map((each) => each.fps);
  const rate = rates.reduce((sum, each) => sum + each, 0);
  setText(find("fps"), ended || !stats.frames ? "–" : rate.toFixed(1));
  ["p50", "p95", "p99"].forEach((id, index) => setText(find(id), stats.age_ms && stats.frames ? Math.round(stats.age_ms[index]) : "–"));
  setText(find("shown"), stats.shown_ms === null ? "–" : Math.round(stats.shown_ms));
  const drops = Object.entries(stats.drops ?? {});
  const dropped = drops.reduce((sum, [, count]) => sum + count, 0);
  setText(find("drops"), stats.drops ? dropped : "–");
  find("drops").classList.toggle("bad", dropped > 0);
  setText(find("drops-label"), drops.length ? `Dropped: ${drops.map(([reason]) => reason).join(", ")}` : "Dropped");
  const names = [...new Set(stats.streams.map((each) => each.source))];
  setText(find("source"), names.length > 2 ? `${names.length} streams` : names.join(", "));
  const memory = stats.memory_bytes ? `, ${Math.round(stats.memory_bytes / 1e6)} MB of memory` : "";
  const viewers = stats.viewers === 1 ? "1 viewer" : `${stats.viewers} viewers`;
  setText(find("foot"), `${stats.frames.toLocaleString("en")} frames, ${viewers}${memory}`);
}

// How busy each stage was since the figures before. Reading is left out: it waits for the camera.
function showStages() {
  if (!stats.stages) {
    find("stages").closest("section").hidden = true;
    return;
  }
  const list = find("stages");
  const before = new Map(lastStages?.stages);
  const worked = stats.stages.filter(([name]) => name !== "read");
  while (list.children.length < worked.length) {
    const item = document.createElement("li");
    item.innerHTML = '<span></span><span class="busy"><i></i></span><span></span>';
    list.append(item);
  }
  const elapsed = lastStages ? stats.elapsed_s - lastStages.elapsed_s : 0;
  worked.forEach(([name, busy], index) => {
    const more = busy - (before.get(name) ?? busy);
    const share = elapsed > 0 ? Math.min(1, Math.max(0, more / elapsed)) : 0;
    const [label, groove, value] = list.children[index].children;
    setText(label, name);
    groove.firstElementChild.style.transform = `scaleX(${share.toFixed(3)})`;
    groove.dataset.level = share > 0.9 ? "full" : share > 0.6 ? "high" : "low";
    setText(value, `${Math.round(100 * share)} %`);
  });
  lastStages = stats;
}

function showState() {
  const [state, short, title, text] = describeState();
  document.documentElement.dataset.state = state;
  setText(find("state-text"), short);
  setText(find("veil-title"), title);
  setText(find("veil-text"), text);
}

function describeState() {
  if (ended) return ["ended", "Ended", "The run has ended", "This page goes on when the next one begins"];
  if (!socket || socket.readyState !== WebSocket.OPEN) {
    return ["connecting", "Connecting", "Connecting", attempts ? "The server does not answer; trying again" : "Waiting for the first picture"];
  }
  if (paused) return ["paused", "Paused", "", ""];
  const silent = stats?.streams.length ? Math.min(...stats.streams.map((each) => each.silent_s)) : null;
  if (silent === null) return ["connecting", "Waiting", "Connected", "Waiting for the first frame"];
  if (silent > SILENT_S) return ["silent", "No frames", "No frames", `The source has been silent for ${Math.round(silent)} s`];
  if (!lastPictureAt) return ["connecting", "Waiting", "Connected", "Waiting for the first picture"];
  return ["live", "Live", "", ""];
}

function setText(element, value) {
  const text = String(value);
  if (element.textContent !== text) element.textContent = text;
}

// -- buttons

function showRecorder() {
  const recording = stats.recording;
  find("record").hidden = recording === null;
  find("record").setAttribute("aria-pressed", String(Boolean(recording)));
  setText(find("record-text"), recording ? "Stop recording" : "Record");
}

async function toggleRecording() {
  const button = find("record");
  const what = stats?.recording ? "stop" : "start";
  button.disabled = true;
  try {
    const answer = await fetch(`record/${what}`, { method: "POST" });
    const said = await answer.json();
    notify(answer.ok ? "" : said.error);
    if (answer.ok) {
      stats.recording = said.recording;
      showRecorder();
    }
  } catch {
    notify("The server does not answer; nothing was changed");
  } finally {
    button.disabled = false;
    button.focus();
  }
}

function notify(text) {
  setText(find("notice"), text);
  find("notice").hidden = !text;
}

function togglePause() {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  setText(find("pause"), paused ? "Resume" : "Pause");
  if (!paused) held.splice(0).forEach((data) => takeFrame(data, true));
  showState();
}

find("record").addEventListener("click", toggleRecording);
find("pause").addEventListener("click", togglePause);
find("full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : find("stage").requestFullscreen?.()));
find("full").hidden = !find("stage").requestFullscreen; // an iPhone has none for elements

// -- drawing, at most ten times a second, once a second where motion is unwelcome

for (const emotion of EMOTIONS) {
  const item = document.createElement("li");
  const mark = document.createElement("i");
  mark.style.setProperty("--tone", `var(--${emotion})`);
  item.append(mark, emotion);
  find("legend").append(item);
}

let drawnAt = 0;
let timelineAt = 0;
function repaint(now) {
  requestAnimationFrame(repaint);
  if (paused || ended || now - drawnAt < CARDS_EVERY_MS) return;
  drawnAt = now;
  showFaces();
  if (now - timelineAt < (calm.matches ? 1000 : CARDS_EVERY_MS)) return;
  timelineAt = now;
  timeline.draw(now);
}

connect();
requestAnimationFrame(repaint);
