"""The stage `vocabulary`: tokens added to a base, with rows for them in its embedding and output projection."""

from dataclasses import replace
from pathlib import Path

from tokenizers import AddedToken

from homegrown.config.finetune_recipe import VocabularySettings
from homegrown.model import weights
from homegrown.model.trained_rows import VOCABULARY, with_rows
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat_files import load_files, save_chat
from homegrown.tokenizer.loading import TOKENIZER_FILE, copy_tokenizer, load
from homegrown.tokenizer.special import MESSAGE_TOKENS, add_own
from homegrown.util.files import replacing
from homegrown.util.progress import Outcome


def extend(out: Path, base: Path, settings: VocabularySettings) -> Outcome:
    """Write `out/model`: the model in the folder `base` with more tokens.

    These are `settings.special_tokens` and, with `settings.chat`, the message tokens of ChatML. A new row is the mean
    of all rows. `chat.json` lists the tokens, so that an adapter trains their rows.

    Raises:
        UserError: a token is an ordinary one of the vocabulary, or a file is damaged.
    """
    tokenizer, model = load(base), weights.load(base)
    size = tokenizer.get_vocab_size()
    if settings.chat:
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in MESSAGE_TOKENS])
    add_own(tokenizer, settings.special_tokens)
    added = [str(tokenizer.id_to_token(number)) for number in range(size, tokenizer.get_vocab_size())]
    larger = Transformer(replace(model.config, vocabulary_size=tokenizer.get_vocab_size())).to(
        model.output_weight.dtype
    )
    larger.load_state_dict(
        {
            name: with_rows(tensor, tokenizer.get_vocab_size()) if name in VOCABULARY else tensor
            for name, tensor in model.state_dict().items()
        }
    )
    weights.save(larger, out / "model")
    copy_tokenizer(base, out / "model")
    with replacing(out / "model" / TOKENIZER_FILE) as temporary:
        tokenizer.save(str(temporary))
    files = load_files(base)
    save_chat(out / "model", files.model_copy(update={"added": [*files.added, *added]}))
    return Outcome(size, tokenizer.get_vocab_size(), "tokens", {"added_tokens": len(added)})
