// What a node said when it ran, on the node: as large as it is, in either renderer, and there until it says else.
// Training Sweep says rows of cells, too: letters of any width stand below each other in a table alone.
import { app } from "../../scripts/app.js";
import { dress, element, panel } from "./common.js";
import { onSaid } from "./nodes.js";

const NODES = new Set([
  "Darkroom_ApplyLoRA", "Darkroom_SaveLoRA", "Darkroom_LoadTrainedLoRA", "Darkroom_StrengthSweep",
  "Darkroom_ResizeLoRA", "Darkroom_MergeLoRAs", "Darkroom_AutoCaption", "Darkroom_TrainingSweep",
]);
const WIDE = 560; // px: a table's columns, side by side
const STYLE = `
.darkroom-said table { font-size: 11px; font-variant-numeric: tabular-nums; }
.darkroom-said th, .darkroom-said td { padding: 1px 8px 1px 0; vertical-align: bottom; text-align: start; }
.darkroom-said th { font-weight: normal; overflow-wrap: normal; }
.darkroom-said td { white-space: nowrap; }
.darkroom-said td[colspan] { white-space: normal; }
`;

// The first row is the head; where one has too few cells, its last is wider.
function table([head, ...rows], plain) {
  const one = element("table", "");
  for (const cells of [head, ...rows]) {
    const said = cells.map((text) => element(cells === head ? "th" : "td", "", plain(text, cells.length > 1 ? "cell" : "line")));
    if (cells.length < head.length) said.at(-1).colSpan = head.length - cells.length + 1;
    one.insertRow().append(...said);
  }
  one.rows[0].className = "dim";
  return one;
}

app.registerExtension({
  name: "LoRADarkroom.Said",
  nodeCreated(node) {
    if (!NODES.has(node.comfyClass)) return;
    dress("darkroom-said", STYLE);
    const inner = panel(node, 1);
    if (node.comfyClass === "Darkroom_TrainingSweep" && node.size[0] < WIDE) node.setSize([WIDE, node.size[1]]);
    onSaid(node, async (output) => {
      const { plain } = await import("./messages/plain.mjs");
      const { text = [], rows } = output ?? {}, said = element("div", "lines darkroom-said");
      said.append(rows ? table(rows, plain) : plain(text.join("\n")));
      inner.replaceChildren(...(said.textContent ? [said] : []));
    });
  },
});
