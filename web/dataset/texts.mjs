// The samples of a data set of text, as they are learnt from; read, not edited.
import { ask, element } from "../common.js";
import { plain } from "../messages/plain.mjs";
import { count, t } from "../text.js";
import { dialog } from "./dialog.mjs";

const AT_ONCE = 200;
const ROLES = { system: "data_system", user: "data_user", assistant: "data_assistant" };

export async function show(node, values) {
  const dataset = values(), list = element("div", "samples");
  const outer = dialog(t("data_read"));
  const tell = element("span", "dim"), more = element("button", "", t("data_more"));
  more.type = "button";
  more.addEventListener("click", () => next().catch((error) => list.append(element("div", "error", error.message))));
  outer.head.insertBefore(tell, outer.head.children[1]);
  outer.body.append(list);
  list.tabIndex = 0;
  list.setAttribute("aria-label", t("data_read"));
  let after = 0;

  function part(role, text) {
    const learnt = role === "assistant" || role === "";
    const name = element("span", "dim", t(ROLES[role] ?? "data_line"));
    return [name, element("span", `text${learnt ? " learnt" : ""}`, text)];
  }

  function sample([source, text, messages]) {
    const one = element("div", "sample");
    one.append(element("div", "from", source));
    for (const [role, content] of messages.length ? messages : [["", text]]) one.append(...part(role, content));
    return one;
  }

  async function next() {
    more.remove();
    const found = await ask("/dataset/texts", { dataset, after, most: AT_ONCE });
    if (!after) {
      outer.name.textContent = found.root;
      tell.textContent = count("sample", found.number);
      for (const [, message, , lines] of found.findings) {
        const line = element("p", "badge mind"), sign = element("span", "sign", "!");
        sign.setAttribute("aria-hidden", "true");
        line.title = lines.map(plain).join("\n");
        line.append(sign, element("span", "", plain(message)));
        list.append(line);
      }
      list.append(element("p", "dim", t("data_learnt")));
    }
    list.append(...found.samples.map(sample));
    after += found.samples.length;
    if (after < found.number) list.append(more);
  }

  await next();
  outer.open();
  list.focus();
}
