// The last minute of each track: seven smoothed probabilities, stacked, one lane a face.

const SPAN_MS = 60000;
const LANES = 6;
const LANE_PX = 28;
const LANE_GAP_PX = 6;
const AXIS_PX = 18;
const LABEL_PX = 42;
// A longer silence is a gap and is not bridged.
const GAP_MS = 1500;
// Finer than a pixel of the minute on most screens.
const LEAST_STEP_MS = 90;

export class Timeline {
  constructor(canvas, emotions, colours) {
    this.canvas = canvas;
    this.emotions = emotions;
    this.colours = colours;
    this.tracks = new Map(); // key -> { name, samples: [{ at, probs, label }] }
  }

  add(key, name, at, face) {
    if (!face.emotion_smoothed) return;
    let track = this.tracks.get(key);
    if (!track) this.tracks.set(key, (track = { name, samples: [] }));
    const last = track.samples.at(-1);
    if (last && at - last.at < LEAST_STEP_MS) return;
    const probs = this.emotions.map((emotion) => face.emotion_smoothed[emotion] ?? 0);
    track.samples.push({ at, probs, label: face.emotion });
  }

  forget(now) {
    for (const [key, track] of this.tracks) {
      while (track.samples.length && track.samples[0].at < now - SPAN_MS) track.samples.shift();
      if (!track.samples.length) this.tracks.delete(key);
    }
  }

  // The tracks seen last; in the order in which they came, so that lanes keep their places.
  lanes() {
    const seenLast = [...this.tracks.values()].sort((a, b) => b.samples.at(-1).at - a.samples.at(-1).at);
    const chosen = new Set(seenLast.slice(0, LANES));
    return [...this.tracks.values()].filter((track) => chosen.has(track));
  }

  draw(now) {
    this.forget(now);
    const lanes = this.lanes();
    const width = this.canvas.clientWidth;
    const rows = Math.max(1, lanes.length);
    const height = rows * LANE_PX + (rows - 1) * LANE_GAP_PX + AXIS_PX;
    const ratio = Math.min(3, window.devicePixelRatio || 1);
    const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== pixels[0] || this.canvas.height !== pixels[1]) {
      [this.canvas.width, this.canvas.height] = pixels;
      this.canvas.style.height = `${height}px`;
    }
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const place = { left: LABEL_PX, width: width - LABEL_PX, now };
    for (let row = 0; row < rows; row++) {
      const top = row * (LANE_PX + LANE_GAP_PX);
      pen.fillStyle = "#11151b";
      pen.fillRect(place.left, top, place.width, LANE_PX);
      if (lanes[row]) this.drawLane(pen, lanes[row], { ...place, top });
    }
    this.drawAxis(pen, place, height, rows);
    this.describe(lanes);
  }

  drawLane(pen, track, place) {
    const x = (at) => place.left + place.width * (1 - (place.now - at) / SPAN_MS);
    pen.fillStyle = "#c8cdd4";
    pen.font = "600 13px system-ui, sans-serif";
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.fillText(track.name, 0, place.top + LANE_PX / 2, LABEL_PX - 6);
    for (const run of runs(track.samples)) this.drawRun(pen, run, x, place.top);
  }

  drawRun(pen, run, x, top) {
    const floor = top + LANE_PX;
    const base = new Float64Array(run.length);
    this.emotions.forEach((emotion, index) => {
      pen.beginPath();
      run.forEach((sample, i) => pen.lineTo(x(sample.at), floor - LANE_PX * base[i]));
      run.forEach((sample, i) => { base[i] = Math.min(1, base[i] + sample.probs[index]); });
      for (let i = run.length - 1; i >= 0; i--) pen.lineTo(x(run[i].at), floor - LANE_PX * base[i]);
      pen.closePath();
      pen.fillStyle = this.colours[emotion];
      pen.fill();
    });
  }

  drawAxis(pen, place, height, rows) {
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "alphabetic";
    for (const seconds of [60, 45, 30, 15, 0]) {
      const x = place.left + place.width * (1 - seconds / 60);
      pen.fillStyle = "rgb(255 255 255 / 10%)";
      if (seconds % 60) pen.fillRect(Math.round(x), 0, 1, rows * (LANE_PX + LANE_GAP_PX) - LANE_GAP_PX);
      pen.fillStyle = "#9aa6b4";
      pen.textAlign = seconds === 60 ? "left" : seconds === 0 ? "right" : "center";
      pen.fillText(seconds ? `−${seconds} s` : "now", x, height - 3);
    }
  }

  // What a screen reader gets instead of the picture.
  describe(lanes) {
    const said = lanes.map((track) => `${track.name} ${track.samples.at(-1).label}`).join(", ");
    const text = `Emotions of each face over the last 60 seconds; last: ${said || "no face"}`;
    if (this.canvas.getAttribute("aria-label") !== text) this.canvas.setAttribute("aria-label", text);
  }
}

function* runs(samples) {
  let begin = 0;
  for (let i = 1; i <= samples.length; i++) {
    if (i === samples.length || samples[i].at - samples[i - 1].at > GAP_MS) {
      yield samples.slice(begin, i);
      begin = i;
    }
  }
}
