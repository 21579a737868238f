"""`python -m pipelines.generation PRESET`: generates and encodes a corpus in this process, without Ray or Prefect."""

import argparse
import sys

from pipelines.generation.build import build_corpus, build_tokens
from pipelines.spec.corpus import TokenizerSpec
from pipelines.spec.presets import CORPORA
from pipelines.tokens.vocabulary import train_tokenizer
from storage.ending import end_process, refused
from storage.errors import RunFailure, UserError
from storage.workspace import Workspace


def main() -> int:
    """Build what is missing of a preset corpus, its tokenizer with one token per digit, and its tokens."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.generation", description=__doc__)
    parser.add_argument("corpus", choices=CORPORA, metavar="PRESET", help=f"one of {', '.join(CORPORA)}")
    parser.add_argument("--workspace", default="./workspace", help="folder or URI; default: ./workspace")
    arguments = parser.parse_args()
    try:
        workspace, spec = Workspace.create(arguments.workspace), CORPORA[arguments.corpus]
        corpus, _ = build_corpus(spec, workspace.corpus(spec.name), in_flight=0)
        print(f"corpus {spec.name}: {corpus.manifest.rows:,} rows", flush=True)
        tokenizer, _ = train_tokenizer(TokenizerSpec(), corpus, workspace.tokenizer(f"{spec.name}-digit"))
        target = workspace.tokens(spec.name, f"{spec.name}-digit")
        tokens, _ = build_tokens(corpus, tokenizer, target, in_flight=0)
        print(f"tokens: {tokens.manifest.rows:,} rows", flush=True)
    except (UserError, RunFailure) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        return refused(error)
    except KeyboardInterrupt:
        print("error: interrupted: run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    end_process(main())
