"""Run in an environment with a client: `python python_clients.py CLIENT URL MODEL`; prints its version."""

import asyncio
import sys
from enum import Enum
from importlib.metadata import version

from pydantic import BaseModel, ConfigDict, Field

CLIENT, URL, MODEL = sys.argv[1], f"{sys.argv[2]}/v1", sys.argv[3]


class City(Enum):
    PARIS = "Paris"
    ROME = "Rome"


class Trip(BaseModel):
    """A trip."""

    model_config = ConfigDict(extra="forbid")

    city: City
    days: int = Field(ge=1, le=9)


def openai() -> None:
    from openai import OpenAI

    client = OpenAI(base_url=URL, api_key="any", max_retries=0)
    parsed = client.chat.completions.parse(
        model=MODEL, messages=[{"role": "user", "content": "a trip"}], response_format=Trip, max_tokens=200
    )
    assert isinstance(parsed.choices[0].message.parsed, Trip)
    with client.chat.completions.stream(
        model=MODEL, messages=[{"role": "user", "content": "a trip"}], response_format=Trip, max_tokens=200
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Trip)


def langchain() -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(base_url=URL, api_key="any", model=MODEL, max_retries=0, max_tokens=400)
    for method in ("json_schema", "function_calling"):
        assert isinstance(model.with_structured_output(Trip, method=method).invoke("a trip"), Trip)
    answer = model.bind_tools([Trip], tool_choice="any", parallel_tool_calls=False).invoke("a trip")
    assert answer.tool_calls[0]["name"] == "Trip" and Trip(**answer.tool_calls[0]["args"])
    again = model.bind_tools([Trip], tool_choice="Trip").invoke(
        [("user", "a trip"), answer, {"role": "tool", "tool_call_id": answer.tool_calls[0]["id"], "content": "done"}]
    )
    assert Trip(**again.tool_calls[0]["args"])
    chunks = list(model.bind_tools([Trip], tool_choice="Trip").stream("a trip"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert Trip(**total.tool_calls[0]["args"])
    assert len(model.batch(["a", "b"])) == 2


def pydantic_ai() -> None:
    from pydantic_ai import Agent, NativeOutput, ToolOutput
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=URL, api_key="any"))
    settings = {"max_tokens": 400, "parallel_tool_calls": False}
    for output in (ToolOutput(Trip), NativeOutput(Trip)):
        agent = Agent(model, output_type=output, retries=0, model_settings=settings)
        assert isinstance(agent.run_sync("a trip").output, Trip)

    async def streamed() -> None:
        agent = Agent(model, output_type=ToolOutput(Trip), retries=0, model_settings=settings)
        async with agent.run_stream("a trip") as result:
            assert isinstance(await result.get_output(), Trip)

    asyncio.run(streamed())


def with_instructor() -> None:
    import instructor
    from openai import OpenAI

    # Mode.JSON asks for any object and describes the schema in the prompt, which needs a model that follows it.
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(OpenAI(base_url=URL, api_key="any"), mode=mode)
        asked = [{"role": "user", "content": "a trip"}]
        found = client.create(model=MODEL, messages=asked, response_model=Trip, max_retries=0, max_tokens=400)
        assert isinstance(found, Trip)


CALLS = {
    "openai": openai,
    "langchain-openai": langchain,
    "pydantic-ai-slim": pydantic_ai,
    "instructor": with_instructor,
}
CALLS[CLIENT]()
print(CLIENT, version(CLIENT), "ok")
