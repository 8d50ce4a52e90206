// What is known of a run: the server's story of it, and the lines of its journal as they come. No page in here.
const MOST_POINTS = 3000;
export const ENDS = /^Run(Finished|Stopped|Failed)$/; // types of the lines that end a run

export class Story {
  constructor() {
    this.run = null; // as /runs tells it
    this.seq = -1; // the number of the last line
    this.skew = 0; // seconds that the server's clock is ahead of this one's
    this.begun = null; // the last RunStarted
    this.phase = null; // {name, done, total, t}
    this.plan = null;
    this.losses = []; // [step, loss, rate, seconds, bytes]
    this.validations = [];
    this.samples = []; // {step, index, prompt, picture, answer}, in order
    this.checkpoints = [];
    this.warnings = [];
    this.chosen = [];
    this.advice = [];
    this.best = null; // {step, reason}
    this.end = null; // the line that ended it
    this.left = null; // {seconds, t}: what is left, as it was told then
    this.drawn = 0; // counts changes of the samples
  }

  // Puts the server's story in place of what is known.
  load(answer) {
    const { run, seq, now, begun, phase, plan, losses, validations, samples, checkpoints } = answer;
    const { warnings, chosen, advice, end } = answer;
    Object.assign(this, { run, seq, begun, phase, plan, losses, validations, samples, checkpoints });
    Object.assign(this, { warnings, chosen, advice, end, best: run.best });
    this.skew = now - Date.now() / 1000;
    this.left = run.state === "running" && phase ? { seconds: run.seconds_left, t: phase.t } : null;
    this.drawn += 1;
  }

  // Adds lines. Those that are known are passed over; false: some are missing, and the whole story must be asked for.
  take(lines) {
    for (const line of lines) {
      if (line.seq <= this.seq) continue;
      if (line.seq !== this.seq + 1) return false;
      this.seq = line.seq;
      this[`on${line.type}`]?.(line);
    }
    return true;
  }

  // Seconds since 1970 by the server's clock.
  now() {
    return Date.now() / 1000 + this.skew;
  }

  get running() {
    return this.begun !== null && !this.end && this.run?.state !== "stopped";
  }

  get paused() {
    return this.running && this.phase?.name === "paused";
  }

  get step() {
    return this.losses.at(-1)?.[0] ?? this.begun?.step ?? 0;
  }

  get total() {
    return this.begun?.total_steps ?? this.run?.total ?? 0;
  }

  onRunStarted(line) {
    // What lies after the checkpoint that it goes on from was lost; one that begins at 0 does all again.
    const point = line.step || -1, until = (one) => (one.step ?? one[0]) <= point;
    this.losses = this.losses.filter(until);
    this.validations = this.validations.filter(until);
    this.samples = this.samples.filter(until);
    this.checkpoints = this.checkpoints.filter((step) => step <= point);
    this.advice = this.advice.filter((one) => one.kind !== "diagnosis");
    this.drawn += 1;
    this.begun = line;
    this.goesOn();
    this.phase = { name: "training", done: line.step, total: line.total_steps, t: line.t };
    this.left = line.seconds ? { seconds: line.seconds, t: line.t } : null;
  }

  onPhase(line) {
    this.goesOn();
    if (line.name === "paused" && this.left) this.left.seconds -= line.t - this.left.t;
    if (this.phase?.name === "paused" && this.left) this.left.t = line.t;
    this.phase = { name: line.name, done: line.done, total: line.total, t: line.t };
  }

  onStep(line) {
    this.losses.push([line.step, line.loss, line.lr, line.seconds, line.memory]);
    if (this.losses.length > MOST_POINTS) this.losses = halved(this.losses);
    this.phase = { name: "training", done: line.step, total: line.total, t: line.t };
    this.left = { seconds: line.eta, t: line.t };
  }

  onValidation(line) {
    this.validations.push(line);
  }

  onSample(line) {
    this.samples = this.samples.filter((one) => one.step !== line.step || one.index !== line.index);
    this.samples.push(line);
    this.samples.sort((a, b) => a.step - b.step || a.index - b.index);
    this.drawn += 1;
  }

  onCheckpoint(line) {
    if (!this.checkpoints.includes(line.step)) this.checkpoints.push(line.step);
  }

  onWarned(line) {
    if (!this.warnings.includes(line.message)) this.warnings.push(line.message);
  }

  onChosen(line) {
    this.chosen = [...this.chosen.filter((one) => one.field !== line.field), line];
  }

  onAdvised(line) {
    this.advice = [...this.advice.filter((one) => one.message !== line.message), line];
  }

  onMemoryPlan(line) {
    this.plan = line;
  }

  onRunFinished(line) {
    if (line.best) this.best = { step: line.best, reason: line.reason };
    this.ends(line);
  }

  onRunStopped(line) {
    this.ends(line);
  }

  onRunFailed(line) {
    this.ends(line);
  }

  ends(line) {
    this.end = line;
    this.left = null;
  }

  // A new process has begun with it.
  goesOn() {
    this.end = null;
    if (this.run) this.run = { ...this.run, state: "running" };
  }
}

// Means of two and two.
function halved(points) {
  const found = [];
  for (let at = 0; at + 1 < points.length; at += 2) {
    const [a, b] = [points[at], points[at + 1]];
    const mean = (one) => (a[one] === null || b[one] === null ? a[one] ?? b[one] : (a[one] + b[one]) / 2);
    found.push([b[0], mean(1), b[2], mean(3), Math.max(a[4], b[4])]);
  }
  if (points.length % 2) found.push(points.at(-1));
  return found;
}
