// How the tab looks: colours are ComfyUI's, so that it is light and dark as the page is.
import { ERROR } from "../common.js";

export const STYLE = `
.darkroom-tab { display: flex; flex-direction: column; height: 100%; min-height: 0; gap: 8px; padding: 10px;
  box-sizing: border-box; font: 13px/1.45 system-ui, sans-serif; color: var(--input-text, #ddd);
  overflow-wrap: anywhere; container-type: inline-size; }
.darkroom-tab [hidden][hidden] { display: none; }
.darkroom-tab h2 { margin: 0; font-size: 16px; font-weight: 600; }
.darkroom-tab h3 { margin: 0; font-size: 12px; font-weight: 600; color: var(--descrip-text, #999); }
.darkroom-tab .row { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
.darkroom-tab .apart { justify-content: space-between; }
.darkroom-tab .dim { color: var(--descrip-text, #999); }
.darkroom-tab .small { font-size: 11.5px; font-variant-numeric: tabular-nums; }
.darkroom-tab .error { color: ${ERROR}; white-space: pre-line; }
.darkroom-tab button, .darkroom-tab select, .darkroom-tab input { font: inherit; color: inherit; }
.darkroom-tab button, .darkroom-tab select, .darkroom-tab input:not([type=checkbox]) { box-sizing: border-box;
  background: color-mix(in srgb, currentColor 7%, transparent); border: 1px solid var(--border-color, #555);
  border-radius: 6px; padding: 4px 10px; }
.darkroom-tab select option { background: var(--comfy-menu-bg, #222); color: var(--input-text, #ddd); }
.darkroom-tab button { cursor: pointer; }
.darkroom-tab button:hover:enabled { background: color-mix(in srgb, currentColor 16%, transparent); }
.darkroom-tab button:disabled, .darkroom-tab button[aria-disabled="true"] { opacity: 0.5; cursor: default; }
.darkroom-tab button.main { font-weight: 600; border: 2px solid var(--p-primary-color, #3b82f6); padding: 3px 9px; }
.darkroom-tab button.grave { border: 2px solid var(--error-text, #ff6060); padding: 3px 9px; }
.darkroom-tab :focus-visible { outline: 2px solid var(--p-primary-color, #3b82f6); outline-offset: 1px; }
.darkroom-tab input[type=checkbox] { width: 16px; height: 16px; margin: 0; flex: none;
  accent-color: var(--p-primary-color, #3b82f6); }
.darkroom-tab .filter { flex: 1; min-width: 0; }
.darkroom-tab .body { flex: 1; min-height: 0; overflow-y: auto; scrollbar-width: thin; display: flex;
  flex-direction: column; gap: 8px; padding: 2px; }
.darkroom-tab ul, .darkroom-tab ol { list-style: none; margin: 0; padding: 0; display: flex; flex-direction: column;
  gap: 6px; }
.darkroom-tab .card { border: 1px solid var(--border-color, #555); border-radius: 8px; padding: 8px 10px; }
.darkroom-tab .run { content-visibility: auto; contain-intrinsic-size: auto 118px; flex: none; }
.darkroom-tab .run.open { border-color: var(--p-primary-color, #3b82f6); content-visibility: visible; }
.darkroom-tab .head { display: flex; gap: 9px; align-items: flex-start; }
.darkroom-tab .head > input { margin-top: 2px; }
.darkroom-tab .summary { flex: 1; min-width: 0; display: flex; gap: 10px; padding: 0; border: 0; border-radius: 4px;
  text-align: start; align-items: flex-start; }
.darkroom-tab .summary, .darkroom-tab .summary:hover:enabled { background: none; }
.darkroom-tab .words { flex: 1; min-width: 0; display: flex; flex-direction: column; gap: 2px; }
.darkroom-tab .words b { font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.darkroom-tab .id { font-weight: 400; font-size: 11.5px; margin-inline-start: 6px; }
.darkroom-tab .state.failed { color: ${ERROR}; }
.darkroom-tab .state.running { font-weight: 600; }
.darkroom-tab .course { height: 28px; margin: 2px 0; }
.darkroom-tab .spark { display: block; width: 100%; height: 28px; overflow: visible; }
.darkroom-tab .spark polyline { fill: none; stroke: var(--p-primary-color, #3b82f6); stroke-width: 1.5;
  vector-effect: non-scaling-stroke; }
.darkroom-tab .spark .best { stroke: var(--descrip-text, #999); stroke-dasharray: 3 3; vector-effect: non-scaling-stroke; }
.darkroom-tab .thumb { flex: none; width: 64px; height: 64px; border-radius: 6px; overflow: hidden; font-size: 10px;
  box-sizing: border-box; border: 1px solid var(--border-color, #555);
  line-height: 1.3; background: var(--comfy-input-bg, #333); color: var(--descrip-text, #999); }
.darkroom-tab .thumb:empty { display: none; }
.darkroom-tab .thumb img { width: 100%; height: 100%; object-fit: cover; display: block; }
.darkroom-tab .thumb span { display: block; padding: 4px; }
.darkroom-tab .details { display: flex; flex-direction: column; gap: 10px; margin-top: 10px; }
.darkroom-tab .details:empty { display: none; }
.darkroom-tab figure { margin: 0; display: flex; flex-direction: column; gap: 4px; }
.darkroom-tab figure img { max-width: 100%; max-height: 300px; object-fit: contain; align-self: flex-start; border-radius: 6px;
  border: 1px solid var(--border-color, #555); }
.darkroom-tab blockquote { margin: 0; padding: 6px 10px; border-inline-start: 3px solid var(--border-color, #555);
  white-space: pre-line; max-height: 12em; overflow-y: auto; }
.darkroom-tab summary { cursor: pointer; font-weight: 600; font-size: 12px; }
.darkroom-tab .pairs { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1px 10px; font-size: 12px;
  margin: 6px 0 0; }
.darkroom-tab .pairs dd { margin: 0; }
.darkroom-tab .pairs dt { color: var(--descrip-text, #999); }
.darkroom-tab form { display: flex; flex-wrap: wrap; gap: 6px; align-items: end; }
.darkroom-tab label.field { display: flex; flex-direction: column; gap: 2px; font-size: 11.5px; flex: 1; min-width: 9em;
  color: var(--descrip-text, #999); }
.darkroom-tab label.field > * { color: var(--input-text, #ddd); font-size: 13px; width: 100%; }
.darkroom-tab .sure { border-color: var(--error-text, #ff6060); display: flex; flex-direction: column; gap: 8px; }
.darkroom-tab progress { width: 100%; height: 6px; accent-color: var(--p-primary-color, #3b82f6); }
.darkroom-tab .queue li { display: flex; gap: 6px; align-items: center; }
.darkroom-tab .queue li > .words { gap: 3px; }
.darkroom-tab .queue button { padding: 1px 8px; }
.darkroom-tab .wide { overflow-x: auto; }
.darkroom-tab table { border-collapse: collapse; font-size: 12px; width: 100%; }
.darkroom-tab th, .darkroom-tab td { text-align: start; padding: 3px 8px 3px 0; vertical-align: top;
  border-bottom: 1px solid var(--border-color, #555); }
.darkroom-tab table * { overflow-wrap: break-word; }
.darkroom-tab thead th + th { overflow-wrap: anywhere; min-width: 6em; }
.darkroom-tab tbody th { font-weight: 400; color: var(--descrip-text, #999); }
.darkroom-tab .side { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(110px, 1fr); gap: 8px;
  overflow-x: auto; }
.darkroom-tab .hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
`;
