// How the panel on Train LoRA looks. Colours are ComfyUI's; what is told by a colour has a shape or a word, too.
import { ERROR } from "../common.js";

export const STYLE = `
.darkroom-training { display: flex; flex-direction: column; gap: 8px; container-type: inline-size; }
.darkroom-training [hidden], .darkroom-compare [hidden] { display: none !important; }
.darkroom-training .head { display: flex; align-items: baseline; gap: 6px; font-size: 13px; }
.darkroom-training .head .name { font-weight: 600; flex: 1; min-width: 0; }
.darkroom-training .head .left { color: var(--descrip-text, #999); font-variant-numeric: tabular-nums; flex: none; }
.darkroom-training .head.failed { color: ${ERROR}; }
.darkroom-training .bar { height: 6px; border-radius: 3px; background: var(--comfy-input-bg, #333); overflow: hidden; }
.darkroom-training .bar div { height: 100%; width: 100%; border-radius: 3px; transform-origin: 0 50%;
  background: var(--p-primary-color, #3b82f6); }
.darkroom-training .bar.still div { background: repeating-linear-gradient(115deg, var(--descrip-text, #999) 0 6px,
  transparent 6px 10px); }
.darkroom-training .row button { padding: 4px 10px; }
.darkroom-training button[aria-disabled="true"] { opacity: 0.5; cursor: default; filter: none; }
.darkroom-training button:focus-visible { outline: 2px solid var(--p-primary-color, #3b82f6); outline-offset: 1px; }
.darkroom-training .stats { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 6px; margin: 0; }
.darkroom-training .stats div { background: var(--comfy-input-bg, #333); border-radius: 6px; padding: 3px 8px; min-width: 0; }
.darkroom-training .stats dt { color: var(--descrip-text, #999); font-size: 10px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.darkroom-training .stats dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
@container (max-width: 330px) { .darkroom-training .stats { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
/* The picture that Nodes 2.0 shows on a node while it runs, and its size below: the strip has it. */
[data-node-id]:has(.darkroom-training) img.pointer-events-none.contain-size,
[data-node-id]:has(.darkroom-training) img.pointer-events-none.contain-size + div { display: none; }
.darkroom-strip { display: flex; flex-direction: column; gap: 6px; }
.darkroom-strip .shots { display: grid; gap: 6px; grid-template-columns: repeat(auto-fill,
  minmax(max(84px, (100% - 6px * (var(--most) - 1)) / var(--most) - 1px), 1fr)); }
.darkroom-panel .darkroom-strip button.shot, .darkroom-panel .darkroom-strip button.thumb { padding: 0; border-width: 2px;
  border-color: transparent; background: none; min-width: 0; border-radius: 6px; }
.darkroom-panel .darkroom-strip button.shot:focus-visible { border-color: var(--p-primary-color, #3b82f6); outline: none; }
.darkroom-strip .shot { display: flex; flex-direction: column; gap: 2px; text-align: left; cursor: zoom-in; }
.darkroom-strip .shot .picture, .darkroom-strip .thumb .picture { width: 100%; aspect-ratio: 1; object-fit: contain;
  border-radius: 4px; background: var(--comfy-input-bg, #333); display: block; }
.darkroom-strip .shot .prompt { font-size: 10px; line-height: 1.3; color: var(--descrip-text, #999); overflow: hidden;
  display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; }
.darkroom-strip .film { display: flex; gap: 2px; overflow-x: auto; scrollbar-width: thin; padding-bottom: 2px; }
.darkroom-strip .thumb { flex: 0 0 46px; font-size: 10px; text-align: center; font-variant-numeric: tabular-nums; }
.darkroom-panel .darkroom-strip button.thumb.on { border-color: var(--p-primary-color, #3b82f6); font-weight: 700; }
.darkroom-strip .slide { display: flex; gap: 8px; align-items: center; }
.darkroom-panel .darkroom-strip .slide input { flex: 1; min-width: 0; padding: 0; accent-color: var(--p-primary-color, #3b82f6); }
.darkroom-strip .slide .step { min-width: 5em; text-align: right; font-variant-numeric: tabular-nums; }
.darkroom-strip .answer { background: var(--comfy-input-bg, #333); border-radius: 6px; padding: 6px 8px; }
.darkroom-strip .answer .prompt { color: var(--descrip-text, #999); }
.darkroom-strip .answer .said { white-space: pre-wrap; max-height: 9em; overflow-y: auto; }
.darkroom-training .words { display: flex; flex-direction: column; gap: 4px; }
.darkroom-training .words p { white-space: pre-line; margin: 0; padding-left: 18px; text-indent: -18px; }
.darkroom-training .words .mark { display: inline-block; width: 18px; text-indent: 0; }
.darkroom-training .words .cure { color: var(--descrip-text, #999); }
.darkroom-training details { color: var(--descrip-text, #999); }
.darkroom-training summary { cursor: pointer; }
.darkroom-training .aside { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.darkroom-compare { border: 1px solid var(--border-color, #555); border-radius: 12px; padding: 16px; max-width: 96vw;
  max-height: 94vh; background: var(--comfy-menu-bg, #222); color: var(--input-text, #ddd);
  font: 13px/1.45 system-ui, sans-serif; box-sizing: border-box; }
.darkroom-compare::backdrop { background: rgb(0 0 0 / 60%); }
.darkroom-compare .top { display: flex; gap: 8px; align-items: center; margin-bottom: 12px; }
.darkroom-compare .top .prompt { flex: 1; min-width: 12em; }
.darkroom-compare button, .darkroom-compare select { font: inherit; color: inherit; background: var(--comfy-input-bg, #333);
  border: 1px solid var(--border-color, #555); border-radius: 6px; padding: 4px 12px; cursor: pointer; }
.darkroom-compare select { flex: 1; min-width: 0; text-overflow: ellipsis; }
.darkroom-compare :is(button, select, input):focus-visible { outline: 2px solid var(--p-primary-color, #3b82f6); outline-offset: 1px; }
.darkroom-compare button[aria-pressed="true"] { border-color: var(--p-primary-color, #3b82f6); font-weight: 600; }
.darkroom-compare .sides { display: flex; gap: 16px; justify-content: center; }
.darkroom-compare figure { margin: 0; display: flex; flex-direction: column; gap: 8px; width: min(76vh, 90vw); min-width: 0; }
.darkroom-compare .sides.two figure { width: min(74vh, 45vw); }
.darkroom-compare figure img { width: 100%; max-height: 72vh; object-fit: contain; border-radius: 6px;
  background: var(--comfy-input-bg, #333); }
.darkroom-compare figure .said { white-space: pre-wrap; overflow-y: auto; max-height: 66vh; min-height: 6em; padding: 10px 12px;
  background: var(--comfy-input-bg, #333); border-radius: 6px; }
.darkroom-compare figcaption { display: flex; gap: 10px; align-items: center; font-variant-numeric: tabular-nums; }
.darkroom-compare figcaption input { flex: 1; min-width: 0; accent-color: var(--p-primary-color, #3b82f6); }
.darkroom-compare figcaption .step { min-width: 7em; }
`;
