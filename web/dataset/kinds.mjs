// What is found about pictures and captions: a sign and a word for each, so that no colour says it alone.
import { t } from "../text.js";

const NOT_TRAINED = "✕", MIND = "!", NOTE = "i";
const KINDS = {
  "bad-caption": [MIND, "data_bad_caption"],
  "bad-row": [MIND, "data_bad_row"],
  "brackets": [NOTE, "data_brackets"],
  "caption-conflict": [MIND, "data_caption_conflict"],
  "corrupt": [NOT_TRAINED, "data_corrupt"],
  "cropped": [NOTE, "data_cropped"],
  "decompression-bomb": [NOT_TRAINED, "data_decompression_bomb"],
  "duplicate": [MIND, "data_duplicate"],
  "duplicate-row": [NOTE, "data_duplicate_row"],
  "empty": [NOT_TRAINED, "data_empty"],
  "few-images": [NOTE, "data_few_images"],
  "hidden": [NOT_TRAINED, "data_hidden"],
  "left-right": [MIND, "data_left_right"],
  "link-loop": [NOT_TRAINED, "data_link_loop"],
  "long-caption": [NOTE, "data_long_caption"],
  "many-images": [NOTE, "data_many_images"],
  "mixed-captions": [MIND, "data_mixed_captions"],
  "near-duplicate": [MIND, "data_near_duplicate"],
  "no-caption": [MIND, "data_no_caption"],
  "no-mask": [NOTE, "data_no_mask"],
  "not-a-file": [NOT_TRAINED, "data_not_a_file"],
  "orphan-caption": [NOTE, "data_orphan_caption"],
  "orphan-mask": [NOTE, "data_orphan_mask"],
  "other-encoding": [NOTE, "data_other_encoding"],
  "repeated-caption": [MIND, "data_repeated_caption"],
  "run-folder": [NOT_TRAINED, "data_run_folder"],
  "same-caption": [MIND, "data_same_caption"],
  "small": [NOTE, "data_small"],
  "too-small": [NOT_TRAINED, "data_too_small"],
  "trigger-word": [MIND, "data_trigger_word"],
  "truncated": [NOT_TRAINED, "data_truncated"],
  "unknown-excluded": [NOTE, "data_unknown_excluded"],
  "unknown-file": [NOTE, "data_unknown_file"],
  "unreadable": [NOT_TRAINED, "data_unreadable"],
  "unsupported": [NOT_TRAINED, "data_unsupported"],
  "unused-mask": [NOTE, "data_unused_mask"],
  "weights": [MIND, "data_weights"],
};

// {sign, text, tone: a class} of a kind.
export function told(kind) {
  const [sign, name] = KINDS[kind] ?? [MIND, ""];
  return { sign, text: name ? t(name) : kind, tone: { [MIND]: "mind", [NOT_TRAINED]: "stop" }[sign] ?? "" };
}
