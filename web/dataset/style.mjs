// How the dialogs of a data set look, in the page's own colours.
import { ERROR } from "../common.js";

export const STYLE = `
.darkroom-dialog { --darkroom-edge: color-mix(in srgb, var(--input-text, #ddd) 24%, transparent);
  --darkroom-field: color-mix(in srgb, var(--input-text, #ddd) 5%, var(--comfy-menu-bg, #222)); width: min(1800px, 96vw); height: 94vh; max-width: none; max-height: none; padding: 0; margin: auto;
  border: 1px solid var(--darkroom-edge); border-radius: 10px; overflow: hidden;
  background: var(--comfy-menu-bg, #222); color: var(--input-text, #ddd); font: 13px/1.4 system-ui, sans-serif; }
.darkroom-dialog[open] { display: flex; flex-direction: column; }
.darkroom-dialog::backdrop { background: rgb(0 0 0 / 55%); }
.darkroom-dialog .head, .darkroom-dialog .tools, .darkroom-dialog .replace, .darkroom-dialog .foot { display: flex;
  flex-wrap: wrap; gap: 6px 10px; align-items: center; padding: 8px 14px; }
.darkroom-dialog .head { padding-bottom: 4px; }
.darkroom-dialog .tools { border-bottom: 1px solid var(--darkroom-edge); }
.darkroom-dialog .replace { border-bottom: 1px solid var(--darkroom-edge); align-items: flex-start; }
.darkroom-dialog .foot { border-top: 1px solid var(--darkroom-edge); padding: 6px 14px; min-height: 1.4em; }
.darkroom-dialog h2 { font-size: 15px; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.darkroom-dialog h3 { font-size: 12px; font-weight: 600; margin: 10px 0 4px; color: var(--descrip-text, #999); }
.darkroom-dialog h3:first-child { margin-top: 0; }
.darkroom-dialog .spring { flex: 1; }
.darkroom-dialog .body { flex: 1; min-height: 0; display: flex; flex-direction: column; }
.darkroom-dialog .main { flex: 1; min-height: 0; display: flex; }
.darkroom-dialog .dim { color: var(--descrip-text, #999); }
.darkroom-dialog .error { color: ${ERROR}; white-space: pre-line; }
.darkroom-dialog .note { padding: 6px 14px; border-bottom: 1px solid var(--darkroom-edge); white-space: pre-line; }
.darkroom-dialog [hidden] { display: none !important; }
.darkroom-dialog button, .darkroom-dialog input:not([type=checkbox]), .darkroom-dialog textarea { font: inherit;
  color: inherit; background: var(--darkroom-field); border: 1px solid var(--darkroom-edge);
  border-radius: 6px; padding: 3px 9px; box-sizing: border-box; }
.darkroom-dialog button { cursor: pointer; }
.darkroom-dialog button:disabled { opacity: 0.45; cursor: default; }
.darkroom-dialog button:hover:enabled { border-color: var(--input-text, #ddd); }
.darkroom-dialog button[aria-pressed=true] { border-color: var(--p-primary-color, #3b82f6);
  box-shadow: inset 0 0 0 1px var(--p-primary-color, #3b82f6); }
.darkroom-dialog :focus-visible { outline: 2px solid var(--p-primary-color, #3b82f6); outline-offset: 1px; }
.darkroom-dialog label { display: inline-flex; align-items: center; gap: 5px; white-space: nowrap; }
.darkroom-dialog input[type=checkbox] { accent-color: var(--p-primary-color, #3b82f6); width: 15px; height: 15px;
  margin: 0; flex: none; }
.darkroom-dialog input[type=number] { width: 6em; }
.darkroom-dialog .close { border: none; background: none; font-size: 15px; }
.darkroom-dialog aside { width: 230px; flex: none; overflow-y: auto; padding: 10px 8px 10px 14px; box-sizing: border-box;
  border-right: 1px solid var(--darkroom-edge); }
.darkroom-dialog aside button { display: flex; gap: 6px; width: 100%; text-align: left; border-color: transparent;
  background: none; padding: 2px 6px; align-items: baseline; }
.darkroom-dialog aside button span:nth-last-child(2) { flex: 1; overflow-wrap: anywhere; }
.darkroom-dialog aside button span:last-child { color: var(--descrip-text, #999); font-variant-numeric: tabular-nums; }
.darkroom-dialog .sign { flex: none; display: inline-block; width: 1.25em; height: 1.25em; line-height: 1.25em;
  text-align: center; border-radius: 50%; font-size: 10px; font-weight: 700; border: 1px solid currentColor; }
.darkroom-dialog aside .said { padding: 2px 6px; display: flex; gap: 6px; align-items: baseline; overflow-wrap: anywhere; }
.darkroom-grid { flex: 1; min-width: 0; overflow-y: auto; overscroll-behavior: contain; position: relative; }
.darkroom-grid .space { position: relative; margin: 0 12px; }
.darkroom-grid .line { position: absolute; left: 0; right: 0; display: grid; gap: 10px; padding-top: 10px;
  box-sizing: border-box; }
.darkroom-grid .none { padding: 40px; text-align: center; }
.darkroom-tile { display: flex; flex-direction: column; gap: 5px; padding: 7px; border-radius: 8px; min-width: 0;
  border: 1px solid var(--darkroom-edge); box-sizing: border-box; overflow: hidden; contain: strict; }
.darkroom-tile .frame { height: 196px; flex: none; display: flex; align-items: center; justify-content: center;
  padding: 0; border: none; border-radius: 5px; background: color-mix(in srgb, var(--input-text, #ddd) 7%, transparent);
  cursor: zoom-in; }
.darkroom-dialog .picture { position: relative; overflow: hidden; display: block; flex: none;
  background: color-mix(in srgb, var(--input-text, #ddd) 8%, transparent); }
.darkroom-dialog .picture img { position: absolute; inset: 0; width: 100%; height: 100%; display: block; }
.darkroom-dialog .picture img:not([src]) { visibility: hidden; }
.darkroom-dialog .crop { position: absolute; box-sizing: border-box; outline: 2px solid #d95f1e; outline-offset: -2px;
  box-shadow: 0 0 0 4000px rgb(0 0 0 / 62%); }
.darkroom-dialog .bucket { position: absolute; left: 4px; top: 4px; padding: 0 5px; border-radius: 4px; font-size: 11px;
  background: rgb(0 0 0 / 72%); color: #fff; font-variant-numeric: tabular-nums; }
.darkroom-grid:not(.crops) .crop, .darkroom-grid:not(.crops) .bucket { display: none; }
.darkroom-tile .top { display: flex; gap: 6px; align-items: center; min-width: 0; flex: none; }
.darkroom-tile .name { flex: 1; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600; }
.darkroom-tile .size { color: var(--descrip-text, #999); font-size: 11px; font-variant-numeric: tabular-nums; }
.darkroom-tile textarea { resize: none; flex: 1; min-height: 0; padding: 4px 6px; line-height: 1.35; width: 100%; }
.darkroom-tile textarea.unsaved { border-color: var(--error-text, #ff6060); border-style: dashed; }
.darkroom-tile textarea[readonly] { background: none; }
.darkroom-tile .badges { height: 20px; flex: none; display: flex; gap: 4px; overflow: hidden; flex-wrap: wrap; }
.darkroom-dialog .badge { display: inline-flex; align-items: center; gap: 4px; font-size: 11px; line-height: 18px;
  padding: 0 7px 0 3px; border-radius: 10px; border: 1px solid var(--darkroom-edge); white-space: nowrap; }
.darkroom-dialog .badge .sign { font-size: 9px; }
.darkroom-dialog .mind > .sign { background: #e0a030; color: #1a1a1a; border-color: #e0a030; }
.darkroom-dialog .stop > .sign { background: #d64545; color: #fff; border-color: #d64545; }
.darkroom-tile.out { border-style: dashed; }
.darkroom-tile.out .frame, .darkroom-tile.out textarea { opacity: 0.4; }
.darkroom-tile.out .name { text-decoration: line-through; font-weight: 400; }
.darkroom-dialog .replace .fields { display: grid; grid-template-columns: auto minmax(12em, 20em); gap: 6px 8px; align-items: center; }
.darkroom-dialog .replace .options { display: flex; flex-direction: column; gap: 6px; padding-top: 3px; }
.darkroom-dialog .preview { flex: 1; min-width: 20em; max-height: 10.5em; overflow-y: auto; }
.darkroom-dialog .preview del { background: color-mix(in srgb, #d64545 30%, transparent); }
.darkroom-dialog .preview ins { background: color-mix(in srgb, #2f9e44 35%, transparent); text-decoration: underline; }
.darkroom-dialog .preview div { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.darkroom-dialog .keys { color: var(--descrip-text, #999); font-size: 12px; }
.darkroom-dialog .samples { flex: 1; overflow-y: auto; padding: 8px 14px; }
.darkroom-dialog .sample { border: 1px solid var(--darkroom-edge); border-radius: 8px; padding: 8px 12px;
  margin-bottom: 8px; display: grid; grid-template-columns: 6.5em 1fr; gap: 3px 12px; }
.darkroom-dialog .sample .from { grid-column: 1 / -1; color: var(--descrip-text, #999); font-size: 11px; }
.darkroom-dialog .sample .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.darkroom-dialog .sample .learnt { font-weight: 600; }
.darkroom-large { max-width: none; max-height: none; border: none; padding: 0; background: none; color: #fff;
  overflow: hidden; text-align: center; font: 13px/1.5 system-ui, sans-serif; }
.darkroom-dialog.darkroom-large:focus-visible { outline: none; }
.darkroom-large::backdrop { background: rgb(0 0 0 / 85%); }
.darkroom-large .picture { margin: 0 auto 8px; }
.darkroom-large p { margin: 0 auto; max-width: 60em; }
`;
