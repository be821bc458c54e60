"""The verb that serves pages over the ledger."""

from __future__ import annotations

import click

from scalr_ray.cli.session import Session, pass_session


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Name or address to listen on."
)
@click.option(
    "--port",
    default=8400,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port; 0 takes one that is free.",
)
@pass_session
def ui(session: Session, host: str, port: int) -> None:
    """Pages over the ledger for a browser, read-only, until Ctrl-C.

    Prints the address. Only this machine reaches it by default: there is no authentication.
    """
    with session.quiet(loads_feast=False):
        from scalr_ray.ui.serving import serve

        try:
            serve(
                session.repo,
                session.overrides,
                host=host,
                port=port,
                told=click.echo,
                warned=lambda line: click.echo(f"scalr: {line}", err=True),
            )
        except KeyboardInterrupt:
            return


VERBS = (ui,)
