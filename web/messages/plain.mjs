// The trainer's messages in the page's language. The trainer speaks English; a table beside this file says what its
// sentences are in another one. In a sentence {word} is what is filled in: of one letter a number; of a name that has a
// table itself only what that has, and of such a name with an s several of these; [s] is there or not.
import { language, t } from "../text.js";

const TABLES = ["zh"];
const NUMBER = "[-+\\d.,e%]+", ANY = ".+?", BETWEEN = /; |, |$/g;
const SMALL = 1500; // characters of an expression: a longer one takes too long to compile
const known = new Map(); // table and text -> what is said instead
const made = new Map(); // name of a table -> its sentences, and what was compiled of them
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
  if (!known.has(key)) known.set(key, text.split("\n").map((line) => say(of, line) ?? line).join("\n"));
  return known.get(key);
}

const several = (name) => name.endsWith("s") && tables[name.slice(0, -1)] && name.slice(0, -1);

// What is said instead of a text that fits a table, or a text that needs none; null of one that does not fit.
function say(name, text) {
  const one = several(name);
  if (one) return together(one, text);
  if (!tables[name]) return text;
  if (!made.has(name)) made.set(name, sentences(name).map((sentence) => ({ sentence, longest: longest(sentence) })));
  for (const one of made.get(name)) {
    if (!text.includes(one.longest)) continue; // to compile all of them would hold the page up
    one.names ??= [...one.sentence.matchAll(/\{(\w+)\}/g)].map(([, each]) => each);
    one.expression ??= new RegExp(`^${source(one.sentence, "(")}$`);
    const values = one.expression.exec(text)?.slice(1).map((each, index) => say(one.names[index], each));
    if (!values || values.includes(null)) continue;
    return tables[name][one.sentence].replace(/\{(\w+)\}/g, (_, each) => values[one.names.indexOf(each)]);
  }
  return null;
}

// Several of a table. What stands between two of them may stand within one, too.
function together(name, text) {
  for (const { index, 0: between } of text.matchAll(BETWEEN)) {
    const first = say(name, text.slice(0, index));
    if (first === null) continue;
    if (!between) return first;
    const rest = together(name, text.slice(index + between.length));
    if (rest !== null) return first + t("comma") + rest;
  }
  return null;
}

// Of several that fit, the one with the most words of its own counts.
function sentences(name) {
  const words = Object.fromEntries(Object.keys(tables[name]).map((one) => [one, one.replace(/\{\w+\}/g, "").length]));
  return Object.keys(words).sort((a, b) => words[b] - words[a]);
}

// The longest part that a text must have literally.
function longest(sentence) {
  return sentence.split(/\{\w+\}|\[\w+\]/).reduce((most, part) => (part.length > most.length ? part : most), "");
}

function source(sentence, open) {
  const parts = sentence.split(/\{(\w+)\}/);
  return parts.map((part, index) => (index % 2 ? `${open}${inside(part)})` : literally(part))).join("");
}

function inside(name) {
  if (!written.has(name)) written.set(name, write(name));
  return written.get(name);
}

function write(name) {
  if (!tables[name]) return name.length === 1 ? NUMBER : ANY;
  const all = sentences(name).map((sentence) => source(sentence, "(?:")).join("|");
  return all.length < SMALL ? all : ANY; // whether it fits is seen when it is said
}

function literally(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\\\[(\w+)\\\]/g, "(?:$1)?");
}
