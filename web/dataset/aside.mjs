// Beside the pictures: what is found about them, how many are left out, and the words of their captions. Each is pressed
// to see its pictures alone.
import { element } from "../common.js";
import { plain } from "../messages/plain.mjs";
import { t } from "../text.js";
import { OUT } from "./album.mjs";
import { press } from "./dialog.mjs";
import { told } from "./kinds.mjs";

const WORDS = 200; // tags that are listed

// {element, draw(), counted(): how many are left out has changed}. `filter`: called when another one is pressed.
export function aside(album, filter) {
  const outer = element("aside", "");
  outer.setAttribute("aria-label", t("data_findings"));

  // `by`: the filter that it sets, "kind" or "word".
  function entry(by, value, { sign = "", tone = "" }, text, number, title) {
    const one = press("", title, () => {
      album[by] = album[by] === value ? "" : value;
      draw();
      filter();
    });
    if (sign) one.append(element("span", "sign", sign));
    one.append(element("span", "", text), element("span", "", number.toLocaleString()));
    one.className = tone;
    one.dataset.kind = by === "kind" ? value : "";
    one.setAttribute("aria-pressed", String(album[by] === value));
    return one;
  }

  // Of no picture, but of all.
  function said({ sign, text, tone }, message, title) {
    const one = element("div", `said ${tone}`);
    one.title = title;
    one.append(element("span", "sign", sign), element("span", "", `${text}: ${message}`));
    return one;
  }

  function findings() {
    const number = (index) => album.items.filter((item) => item.findings.includes(index)).length;
    const all = album.findings.map((one, index) => [one, number(index)]);
    all.sort((a, b) => Boolean(b[1]) - Boolean(a[1]));
    return all.map(([{ kind, message, lines }, here]) => {
      const name = told(kind), title = [message, ...lines].map(plain).join("\n");
      return here ? entry("kind", kind, name, name.text, here, title) : said(name, plain(message), title);
    });
  }

  function draw() {
    const found = [element("h3", "", t("data_findings")), ...findings()];
    if (!album.findings.length) found.push(element("div", "dim", t("data_no_findings")));
    found.push(entry("kind", OUT, { sign: "–" }, t("data_out"), album.out, t("data_out_hint")));
    if (album.words?.counts.length) {
      found.push(element("h3", "", t(album.words.kind === "tags" ? "data_tags" : "data_words")));
      for (const [word, times] of album.words.counts.slice(0, WORDS)) found.push(entry("word", word, {}, word, times, ""));
    }
    const focused = outer.contains(document.activeElement) && [...outer.children].indexOf(document.activeElement);
    const scrolled = outer.scrollTop;
    outer.replaceChildren(...found);
    outer.scrollTop = scrolled;
    if (focused !== false) outer.children[focused]?.focus({ preventScroll: true });
  }

  function counted() {
    for (const one of outer.querySelectorAll(`[data-kind='${OUT}'] span:last-child`)) one.textContent = String(album.out);
  }

  return { element: outer, draw, counted };
}
