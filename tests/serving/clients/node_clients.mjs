// Run where the packages are installed: `node node_clients.mjs URL MODEL`.
import assert from "node:assert";
import OpenAI from "openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const [url, name] = process.argv.slice(2);
const baseURL = `${url}/v1`;
const trip = z.object({ city: z.enum(["Paris", "Rome"]), days: z.number().int().min(1).max(9) });
const schema = {
  type: "object",
  properties: { city: { enum: ["Paris", "Rome"] }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
  additionalProperties: false,
};
const messages = [{ role: "user", content: "a trip" }];

const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const called = await client.chat.completions.create({
  model: name,
  messages,
  max_tokens: 400,
  tools: [{ type: "function", function: { name: "trip", parameters: schema } }],
  tool_choice: { type: "function", function: { name: "trip" } },
});
trip.parse(JSON.parse(called.choices[0].message.tool_calls[0].function.arguments));
const stream = client.chat.completions.stream({
  model: name,
  messages,
  max_tokens: 400,
  response_format: { type: "json_schema", json_schema: { name: "trip", schema } },
});
trip.parse(JSON.parse((await stream.finalChatCompletion()).choices[0].message.content));
console.log("openai ok");

const provider = createOpenAICompatible({ name: "homegrown", baseURL, supportsStructuredOutputs: true });
const model = provider(name);
const object = await generateObject({ model, schema: trip, prompt: "a trip", maxRetries: 0, maxOutputTokens: 400 });
trip.parse(object.object);
const tools = { trip: tool({ description: "a trip", inputSchema: trip }) };
const options = { model, tools, toolChoice: "required", prompt: "a trip", maxRetries: 0, maxOutputTokens: 900 };
const text = await generateText(options);
assert(text.toolCalls.length >= 1);
trip.parse(text.toolCalls[0].input);
const streamed = await streamText(options).toolCalls;
trip.parse(streamed[0].input);
console.log("ai ok");
