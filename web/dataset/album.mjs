// What is known of a data set's pictures, and which of them are shown. No page in here.
export const OUT = "(out)"; // what is filtered by, beside the kinds of findings

// As the server compares names.
export const fold = (name) => name.normalize("NFC").toLowerCase().replaceAll("\\", "/").replace(/^\.\//, "").trim();

export class Album {
  constructor() {
    this.id = ""; // thumbnails are asked for by it
    this.items = []; // {name, shape, captions, source: their file, findings: places of them, content, out, draft: typed, not saved}
    this.findings = []; // {kind, message, lines, each: messages by names}
    this.words = null; // {kind: "tags" or "words", counts: [[word, times]]}
    this.locked = null; // {why, cure}: the captions are not to be edited
    this.fixed = false; // what is left out is not to be changed
    this.kind = this.word = this.text = ""; // what is filtered by
    this.shown = [];
  }

  // Takes the server's answers. What was there stays the same object, so that nothing that is being edited is disturbed.
  // Returns whether there are other pictures now.
  take(found, words) {
    const former = this.items, known = new Map(former.map((item) => [item.name, item])), out = new Set(found.excluded);
    Object.assign(this, { id: found.album, locked: found.locked, words });
    this.findings = found.findings.map(([kind, message, , lines, each]) => ({ kind, message, lines, each }));
    this.items = found.images.map(([name, shape, captions, source, findings, content]) => {
      const from = found.sources[source], stem = name.split("/").pop().replace(/\.[^.]*$/, "");
      return Object.assign(known.get(name) ?? { name }, {
        shape: found.shapes[shape], captions, findings, content, out: out.has(name), source: from.replace("*", stem),
        address: undefined,
      });
    });
    return former.length !== this.items.length || former.some((item, index) => item !== this.items[index]);
  }

  filter() {
    const text = fold(this.text), { kind, word } = this;
    this.shown = this.items.filter((item) => {
      if (kind === OUT ? !item.out : kind && !item.findings.some((one) => this.findings[one].kind === kind)) return false;
      if (word && !item.captions.some((caption) => has(caption, word, this.words?.kind))) return false;
      return !text || fold(item.name).includes(text) || item.captions.some((one) => fold(one).includes(text));
    });
  }

  get filtered() {
    return Boolean(fold(this.text) || this.kind || this.word);
  }

  // How many are left out.
  get out() {
    return this.items.filter((item) => item.out).length;
  }
}

// What stands between commas, as the server counts it.
const tags = (caption) => caption.split(/[,，、]/).map((one) => one.trim().replace(/\s+/g, " ").toLowerCase());

function has(caption, word, kind) {
  if (kind === "tags") return tags(caption).includes(word);
  const escaped = word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`(?<![\\p{L}\\p{N}_])${escaped}(?![\\p{L}\\p{N}_])`, "iu").test(caption)
    || (/[\u3041-\u9fff]/.test(word) && caption.toLowerCase().includes(word));
}
