"""Every HTTP route of the pack, below ``/darkroom``."""

from __future__ import annotations

from . import background, dataset, estimates, folders, gallery, panel, sidebar, trained
from .asked import One
from .host.web import Route

ROUTES: tuple[Route, ...] = (
    Route("GET", "/presets", estimates.presets),
    Route("POST", "/estimate", estimates.answer, estimates.Question, most=2**20),  # with pasted YAML
    Route("POST", "/dataset", dataset.seen, dataset.Values, most=2**20),  # with names of excluded images
    Route("POST", "/dataset/pictures", gallery.pictures, gallery.Seen, most=2**20),
    Route("POST", "/dataset/texts", gallery.texts, gallery.Some, most=2**20),
    Route("GET", "/dataset/thumbnail", gallery.picture, gallery.Thumbnail),
    Route("POST", "/dataset/words", gallery.words, gallery.Seen, most=2**20),
    Route("POST", "/dataset/caption", gallery.save, gallery.Saved, most=2**20),
    Route("POST", "/dataset/replace", gallery.replace, gallery.Replaced, most=4 * 2**20),  # with names of images
    Route("POST", "/dataset/undo", gallery.step, gallery.Step, most=2**20),
    Route("POST", "/dataset/new", folders.new, folders.New),
    Route("POST", "/dataset/discard", folders.discard, folders.Empty),
    Route("POST", "/dataset/open", folders.show, folders.Shown, local=True),
    Route("GET", "/runs", trained.every_run),
    Route("GET", "/runs/{run}", trained.one_run, One),
    Route("GET", "/shown", panel.nodes, panel.Of),
    Route("GET", "/runs/{run}/story", panel.told, panel.Story),
    Route("GET", "/runs/{run}/samples/{name}", panel.picture, panel.Sample),
    Route("POST", "/runs/{run}/control", panel.ask, panel.Control),
    Route("GET", "/runs/{run}/size", sidebar.size, One),
    Route("POST", "/runs/{run}/keep", sidebar.keep, sidebar.Keep),
    Route("POST", "/runs/{run}/delete", sidebar.delete, sidebar.Delete),
    Route("POST", "/tensorboard", sidebar.tensorboard, One, local=True),
    Route("GET", "/queue", background.told),
    Route("POST", "/queue", background.ask, background.Wish),
    Route("POST", "/runs/{run}/draw", background.draw, background.Drawing),
)
