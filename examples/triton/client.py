"""A transfer by a Triton server, at the photo's own size.

    python examples/triton/client.py PERSON OWNER -o out.png [--url localhost:8001]

The server runs the networks at the bundle's size. Fitting the photos to it and putting the result
back into the person's photo, with the garment sampled from its owner's, is the client's part.
"""

from pathlib import Path

import click
import msgspec
import tritonclient.grpc as triton

from garment_transfer.bundle import Framing, Size
from garment_transfer.runtime import Person, stage_inputs
from garment_transfer.runtime.photos import compose, fit_person, write_rgb

_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("person", type=_PATH)
@click.argument("garment_owner", type=_PATH)
@click.option("-o", "--output", type=_PATH, required=True, help="Picture to write.")
@click.option("--url", default="localhost:8001", show_default=True, help="Server, its gRPC port.")
@click.option("--model", default="garment_transfer", show_default=True, help="Name of the model.")
def main(person: Path, garment_owner: Path, output: Path, url: str, model: str) -> None:
    """Put the garment of GARMENT_OWNER on PERSON; both are folders of people."""
    receiver, owner = Person.load(person), Person.load(garment_owner)
    with triton.InferenceServerClient(url) as client:
        # The model's own configuration says which size it takes.
        config = client.get_model_config(model).config
        height, width = next(i.dims[:2] for i in config.input if i.name == "person_image")
        size = Size(height, width)
        rule = msgspec.json.decode(config.parameters["framing"].string_value, type=Framing)
        inputs = []
        for name, array in stage_inputs(receiver, owner, size, rule).items():
            inputs.append(triton.InferInput(name, [1, *array.shape], "UINT8"))
            inputs[-1].set_data_from_numpy(array[None])
        result = client.infer(model, inputs)
    composed = compose(
        receiver,
        owner,
        *(fit_person(each.densepose, rule, size) for each in (receiver, owner)),
        image=result.as_numpy("image")[0],
        transfer_parsing=result.as_numpy("transfer_parsing")[0],
        warped_garment=result.as_numpy("warped_garment")[0],
        flow=result.as_numpy("flow")[0],
    )
    write_rgb(output, composed.image)


if __name__ == "__main__":
    main()
