"""A conversation: the prompt of each answer, the dropped messages, and that nothing is cut silently."""

import pytest
from tokenizers import Tokenizer

from homegrown.inference.conversation import Answer, Conversation
from homegrown.inference.generation import generate
from homegrown.inference.sampling import GREEDY
from homegrown.model.transformer import Transformer
from homegrown.tokenizer.chat import Chat, Message
from homegrown.util.errors import UserError
from tests.serving.conftest import CONTEXT


@pytest.fixture
def conversation(model: Transformer, tokenizer: Tokenizer) -> Conversation:
    return Conversation(model, Chat(tokenizer), GREEDY, system="Be brief.", max_tokens=10, seed=0)


def expected(model: Transformer, tokenizer: Tokenizer, messages: list[Message]) -> str:
    prompt = Chat(tokenizer).encode(messages, reply=True)
    (tokens,) = generate(model, [prompt], max_tokens=10, stop_ids=Chat(tokenizer).stop_ids)
    return tokenizer.decode(tokens)


def read(answer: Answer) -> str:
    return "".join(answer)


def test_each_answer_follows_from_all_messages(
    conversation: Conversation, model: Transformer, tokenizer: Tokenizer
) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Why?")]
    first = read(conversation.say("Why?"))
    assert first == expected(model, tokenizer, messages)
    messages += [Message("assistant", first), Message("user", "So?")]
    assert read(conversation.say("So?")) == expected(model, tokenizer, messages)
    conversation.reset()
    assert read(conversation.say("Why?")) == first


def test_a_stopped_answer_stays_in_the_conversation(
    conversation: Conversation, model: Transformer, tokenizer: Tokenizer
) -> None:
    answer = conversation.say("Why?")
    begun = next(iter(answer))
    answer.stop()
    messages = [Message("system", "Be brief."), Message("user", "Why?"), Message("assistant", begun)]
    assert read(conversation.say("So?")) == expected(model, tokenizer, [*messages, Message("user", "So?")])


def test_the_oldest_messages_are_dropped_and_counted(
    conversation: Conversation, model: Transformer, tokenizer: Tokenizer
) -> None:
    system, said = [Message("system", "Be brief.")], list[Message]()
    for number in range(8):
        said.append(Message("user", f"Question {number}?"))
        answer = conversation.say(said[-1].content)
        said = said[answer.dropped :]
        assert len(Chat(tokenizer).encode([*system, *said], reply=True)) + 10 <= CONTEXT
        said.append(Message("assistant", read(answer)))
        assert said[-1].content == expected(model, tokenizer, [*system, *said[:-1]])
    assert len(said) < 16


def test_a_message_too_long_leaves_the_conversation_as_it_was(conversation: Conversation, model, tokenizer) -> None:
    with pytest.raises(UserError, match="The message and its answer exceed the context of 128"):
        conversation.say("long " * 100)
    messages = [Message("system", "Be brief."), Message("user", "Why?")]
    assert read(conversation.say("Why?")) == expected(model, tokenizer, messages)


def test_the_finish_reason_is_that_of_the_last_token(conversation: Conversation) -> None:
    answer = conversation.say("Why?")
    read(answer)
    assert (answer.finish_reason == "length") == (answer.completion_tokens == 10)


def test_a_system_message_too_long_is_refused(model: Transformer, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="system message fills the context"):
        Conversation(model, Chat(tokenizer), GREEDY, system="x" * 130, max_tokens=10, seed=0)
