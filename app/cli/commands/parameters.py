"""Parameters that several commands have."""

from typing import Annotated

import typer

from app.cli.number_options import integer_option

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="A folder, a pattern, a .txt file of paths, .npy, .npz, MNIST files, .zip or .tar archives, images.",
    ),
]
Model = Annotated[str, typer.Option(help="The folder of the model, or its name, as for serve.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N, as for serve.")]
Precision = Annotated[str, typer.Option(help="float32, bfloat16 or float16 for the networks, as for serve.")]
Threads = Annotated[
    int, integer_option("Threads that read, write, and on a CPU compute, up to 1024; 0: one for each core.")
]
BatchSize = Annotated[int, integer_option("Images of one batch, up to 4096; 0: by the size of the images.")]

Fit = Annotated[str, typer.Option(help="resize, pad, crop or exact, as for the service.")]
Bucket = Annotated[
    str, typer.Option(help="Sizes WxH,WxH of a model of many sizes; an image takes the nearest, by default its own.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first image that cannot be read.")]

ImageFormat = Annotated[str, typer.Option(help="png, jpeg or webp.")]
Quality = Annotated[int, integer_option("Quality of JPEG and WebP, 1 to 100.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace images that are there already.")]

TorchDevice = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
TorchThreads = Annotated[int, integer_option("CPU threads; 0 for the default of torch.")]
