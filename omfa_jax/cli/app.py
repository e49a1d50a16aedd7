"""`omfa app`: a web page on which two photos become a picture."""

import argparse

from omfa_jax.cli.flags import int_between, parse_any_path_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `omfa app`."""
    add = parser.add_argument
    add(
        "--checkpoint",
        type=parse_any_path_text,
        metavar="DIR",
        help="training workdir, one of its steps, or model folder (default: tiny, the small model)",
    )
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    add("--port", type=int_between(1, 65535), default=7860, help="port to listen on")
    add(
        "--share",
        action="store_true",
        help="publish the page through Gradio's servers, for anybody with the link",
    )
    add("--queue", type=int_between(1, 1000), default=8, help="people who may wait at once")
    add("--max-upload-mb", type=int_between(1, 1000), default=20, help="largest photo, in MB")
    add("--max-results", type=int_between(1, 64), default=4, help="most pictures of one job")
    add("--max-steps", type=int_between(1, 1000), default=100, help="most denoising steps")
    add(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="compute dtype: auto is bfloat16 on a GPU or TPU, else float32",
    )


def run(options: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    from omfa_jax.app.settings import AppLimits
    from omfa_jax.app.web_server import serve_until_stopped

    limits = AppLimits(
        queue=options.queue,
        upload_mb=options.max_upload_mb,
        steps=options.max_steps,
        results=options.max_results,
    )
    where = {"host": options.host, "port": options.port, "share": options.share}
    serve_until_stopped(options.checkpoint, **where, limits=limits, dtype=options.dtype, warm=True)
