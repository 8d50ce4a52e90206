// The trainer's messages in the page's language. The trainer speaks English; a table beside this file says what its
// sentences are in another one. In a sentence {word} is what is filled in: of one letter a number; of a name that has a
// table itself only what that has, and of such a name with an s several of these; [s] is there or not.
import { language, t } from "../text.js";

const TABLES = ["zh"];
const NUMBER = "[-+\\d.,e%]+", BETWEEN = "; |, ";
const known = new Map(); // table and text -> what is said instead
const made = new Map(); // name of a table -> [[expression, names, what is said], ...]
const written = new Map(); // name -> the expression of what may be filled in
let spoken = "", tables = {};
await speak(language().split("-")[0]);

async function speak(now) {
  spoken = now;
  tables = {};
  for (const one of [known, made, written]) one.clear();
  if (!TABLES.includes(now)) return;
  const asked = fetch(new URL(`${now}.json`, import.meta.url), { cache: "no-cache" });
  const found = await asked.then((answer) => answer.json()).catch(() => ({}));
  if (now === spoken) tables = found;
}

// A message, line by line; what no sentence fits stays as it is. `of`: the table that its lines are in.
export function plain(text, of = "line") {
  const now = language().split("-")[0];
  if (now !== spoken) speak(now); // it is there when the page next draws what it says
  if (!tables.line) return text;
  const key = `${of} ${text}`;
  if (!known.has(key)) known.set(key, text.split("\n").map((line) => say(of, line)).join("\n"));
  return known.get(key);
}

const several = (name) => name.endsWith("s") && tables[name.slice(0, -1)] && name.slice(0, -1);

function say(name, text) {
  const one = several(name);
  if (one) {
    const parts = new RegExp(`(${inside(one)})(${BETWEEN}|$)`, "g");
    return text.replace(parts, (_, each, then) => say(one, each) + (then && t("comma")));
  }
  if (!tables[name]) return text;
  if (!made.has(name)) made.set(name, sentences(name).map(compiled(name)));
  for (const [expression, names, said] of made.get(name)) {
    const found = expression.exec(text);
    if (!found) continue;
    const values = Object.fromEntries(names.map((each, index) => [each, say(each, found[index + 1])]));
    return said.replace(/\{(\w+)\}/g, (_, each) => values[each]);
  }
  return text;
}

// Of several that fit, the one with the most words of its own counts.
function sentences(name) {
  const words = (sentence) => sentence.replace(/\{\w+\}/g, "").length;
  return Object.keys(tables[name]).sort((a, b) => words(b) - words(a));
}

const compiled = (name) => (sentence) => {
  const names = [...sentence.matchAll(/\{(\w+)\}/g)].map(([, each]) => each);
  return [new RegExp(`^${source(sentence, "(")}$`), names, tables[name][sentence]];
};

function source(sentence, open) {
  const parts = sentence.split(/\{(\w+)\}/);
  return parts.map((part, index) => (index % 2 ? `${open}${inside(part)})` : literally(part))).join("");
}

function inside(name) {
  if (!written.has(name)) written.set(name, write(name));
  return written.get(name);
}

function write(name) {
  const one = several(name);
  if (one) return `(?:${inside(one)})(?:(?:${BETWEEN})(?:${inside(one)}))*`;
  if (tables[name]) return sentences(name).map((sentence) => source(sentence, "(?:")).join("|");
  return name.length === 1 ? NUMBER : ".+?";
}

function literally(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\\\[(\w+)\\\]/g, "(?:$1)?");
}
