// Continue's adapter for Ollama, which speaks OpenAI's API to it: node continue.mjs URL. Prints "ok" and ends with 0 when everything was as
// expected. (The provider within Continue's editor extensions is not published as a package that installs by itself.)
import assert from "node:assert/strict";
import { constructLlmApi } from "@continuedev/openai-adapters";

const HELLO = "Hello world! Grün 🙂";
const api = constructLlmApi({ provider: "ollama", apiBase: process.argv[2] });
assert.ok(api.apiBase.includes("/v1"));
const messages = [{ role: "user", content: "hi" }];
const never = new AbortController().signal;
const ask = (model, more = {}) => ({ model, messages, stream: false, ...more });

async function collect(stream) {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return pieces;
}
const said = (pieces, field = "content") => pieces.map((p) => p.choices[0]?.delta?.[field] ?? "").join("");

// ---- chat
const whole = await api.chatCompletionNonStream(ask("tiny-hello"), never);
assert.equal(whole.choices[0].message.content, HELLO);
assert.ok(whole.usage.completion_tokens > 5);
const pieces = await collect(api.chatCompletionStream(ask("tiny-hello", { stream: true }), never));
assert.equal(said(pieces), HELLO);
assert.ok(pieces.at(-1).usage.total_tokens > 5); // the adapter asks for it
assert.ok(pieces.some((p) => p.choices[0]?.finish_reason === "stop"));

// ---- tools
const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } }];
const called = await api.chatCompletionNonStream(ask("tiny-tool", { tools }), never);
const call = called.choices[0].message.tool_calls[0];
assert.equal(called.choices[0].finish_reason, "tool_calls");
assert.deepEqual(JSON.parse(call.function.arguments), { city: "Paris", days: 2 });
const streamed = await collect(api.chatCompletionStream(ask("tiny-tool", { tools, stream: true }), never));
const deltas = streamed.flatMap((p) => p.choices[0]?.delta?.tool_calls ?? []);
assert.equal(deltas[0].function.name, "get_weather");
assert.deepEqual(JSON.parse(deltas.map((d) => d.function.arguments).join("")), { city: "Paris", days: 2 });
const again = [...messages, called.choices[0].message, { role: "tool", tool_call_id: call.id, content: "sun" }];
assert.ok((await api.chatCompletionNonStream(ask("tiny-tool", { tools, messages: again }), never)).choices[0].message);

// ---- a schema, thinking
const schema = { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"], additionalProperties: false };
const kept = await api.chatCompletionNonStream(ask("tiny", {
  seed: 5, max_tokens: 300, response_format: { type: "json_schema", json_schema: { name: "verdict", schema, strict: true } } }), never);
assert.deepEqual(Object.keys(JSON.parse(kept.choices[0].message.content)), ["yes"]);
const thought = await collect(api.chatCompletionStream(ask("tiny-think", { stream: true }), never));
assert.deepEqual([said(thought, "reasoning"), said(thought)], ["hm, well", "Yes."]);

// ---- completions, embeddings, models
const completion = await api.completionNonStream({ model: "tiny-hello", prompt: "hi", stream: false }, never);
assert.equal(completion.choices[0].text, HELLO);
const parts = await collect(api.completionStream({ model: "tiny-fim", prompt: "def f():", suffix: "\n", stream: true }, never));
assert.equal(parts.map((p) => p.choices[0]?.text ?? "").join(""), "return 1");
const { data } = await api.embed({ model: "tiny", input: ["ab", "x"] });
assert.deepEqual(data.map((d) => d.embedding.indexOf(1)), ["b", "x"].map((c) => c.charCodeAt(0)));
assert.ok((await api.list()).some((m) => m.id === "tiny-hello:latest"));

// ---- errors
const refused = (status, text) => (e) => e.status === status && e.message.includes(text);
await assert.rejects(api.chatCompletionNonStream(ask("nothere"), never), refused(404, "model 'nothere' not found"));
await assert.rejects(collect(api.chatCompletionStream(ask("nothere", { stream: true }), never)), refused(404, "model 'nothere' not found"));
await assert.rejects(api.chatCompletionNonStream(ask("tiny-hello", { tools }), never), refused(400, "does not support tools"));
await assert.rejects(api.chatCompletionNonStream(ask("tiny-hello", { messages: [] }), never), refused(400, "[] is too short - 'messages'"));
await assert.rejects(api.embed({ model: "nothere", input: "x" }), refused(404, "nothere"));

// ---- a client who leaves: the caller looks whether its place is free
const leave = new AbortController();
let seen = 0;
try {
  for await (const _ of api.chatCompletionStream(ask("tiny", { stream: true, max_tokens: 1000000 }), leave.signal)) if (++seen === 5) leave.abort();
} catch (e) {
  assert.match(e.name, /Abort/);
}
assert.ok(seen >= 5);
console.log("ok");
