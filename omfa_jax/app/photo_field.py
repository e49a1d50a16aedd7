"""The field of one photo: uploaded, pasted, or taken with a webcam."""

from typing import Any

import gradio as gr
from gradio.processing_utils import save_base64_to_cache
from gradio_client.utils import is_http_url_like

from omfa_jax.app.upload_guard import UploadCounter

# base64 writes 3 bytes as 4 characters
BASE64_SHARE = 3 / 4


def make_photo_field(
    name: str, label: str, upload_mb: int, uploads: UploadCounter, *, shown: bool
) -> tuple[gr.Image, gr.Column]:
    """Return the field of one photo, which hands over the visitor's file as it is, and its column.

    Links are refused: Gradio would fetch them, whatever their size. Show and hide the column, never
    the field: after `gr.update` of a component Gradio uses a fresh one of its class.
    """
    with gr.Column(visible=shown, min_width=160) as column:
        field = gr.Image(
            type="filepath",
            label=label,
            sources=["upload", "clipboard", "webcam"],
            height=330,
            elem_id=name,
            buttons=[],
        )
    move = field.async_move_resource_to_block_cache

    async def move_file(place: Any) -> str | None:
        if place is not None and is_http_url_like(str(place)):
            raise gr.Error(f"{label}: upload the photo; links are not fetched")
        return await move(place)

    def read(payload: Any) -> str | None:
        if payload is None:
            return None
        # a webcam's picture may come as text
        if (payload.url or "").startswith("data:"):
            if len(payload.url) * BASE64_SHARE > upload_mb * 1e6:
                raise gr.Error(f"{label}: expected at most {upload_mb} MB")
            # it becomes a file here, past the guard of uploads
            if why := uploads.count():
                raise gr.Error(f"{label}: {why}")
            return save_base64_to_cache(payload.url, field.GRADIO_CACHE)
        return payload.path

    # Gradio would open the file first: it reads fewer kinds, and its errors name none. A subclass
    # would make it write a stub file beside this one
    setattr(field, "preprocess", read)  # noqa: B010
    setattr(field, "async_move_resource_to_block_cache", move_file)  # noqa: B010
    return field, column
