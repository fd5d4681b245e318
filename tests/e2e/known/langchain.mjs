// LangChain's Ollama classes for JavaScript: node langchain.mjs URL. Prints "ok" and ends with 0 when everything was as expected.
import assert from "node:assert/strict";
import { AIMessage, HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOllama, Ollama, OllamaEmbeddings } from "@langchain/ollama";

const baseUrl = process.argv[2];
const HELLO = "Hello world! Grün 🙂";
const CALLED = { city: "Paris", days: 2 };
const chat = (model, more = {}) => new ChatOllama({ model, baseUrl, ...more });
const refused = (status, text) => (e) => e.status_code === status && e.message.includes(text);

// ---- at once, in pieces, several together
const answer = await chat("tiny-hello", { checkOrPullModel: true }).invoke([new SystemMessage("be kind"), new HumanMessage("hi")]);
assert.equal(answer.content, HELLO);
assert.equal(answer.response_metadata.done_reason, "stop");
assert.ok(answer.usage_metadata.input_tokens > 0 && answer.usage_metadata.output_tokens > 5);

const pieces = [];
for await (const piece of await chat("tiny-hello").stream("hi")) pieces.push(piece.content);
assert.equal(pieces.join(""), HELLO);
assert.ok(pieces.length > 4);

const many = await chat("tiny-hello").batch(["a", "b", "c", "d"]);
assert.deepEqual(many.map((m) => m.content), [HELLO, HELLO, HELLO, HELLO]);
assert.equal((await chat("tiny-hello").invoke("hi", { stop: ["rld"] })).content, "Hello wo");

// options that Ollama has forgotten are sent by this client, too
const old = { numa: false, lowVram: false, f16Kv: true, logitsAll: false, vocabOnly: false, useMlock: false, embeddingOnly: false,
  mirostat: 0, mirostatTau: 5, mirostatEta: 0.1, penalizeNewline: true, tfsZ: 1, numBatch: 128, mainGpu: 0, keepAlive: "5m" };
assert.equal((await chat("tiny-hello", { ...old, numPredict: 3 }).invoke("hi")).response_metadata.eval_count, 3);

// ---- tools
const tool = { type: "function", function: { name: "get_weather", description: "the weather",
  parameters: { type: "object", properties: { city: { type: "string" }, days: { type: "integer" } }, required: ["city", "days"] } } };
const withTools = chat("tiny-tool").bindTools([tool]);
const called = await withTools.invoke("weather?");
assert.equal(called.tool_calls.length, 1);
assert.equal(called.tool_calls[0].name, "get_weather");
assert.deepEqual(called.tool_calls[0].args, CALLED);
assert.equal(called.content, "");
const result = new ToolMessage({ content: "sun", tool_call_id: called.tool_calls[0].id, name: "get_weather" });
assert.deepEqual((await withTools.invoke([new HumanMessage("?"), called, result])).tool_calls[0].args, CALLED);
const streamed = [];
for await (const piece of await chat("tiny-spaced").bindTools([tool]).stream("?")) streamed.push(piece);
assert.equal(streamed.map((p) => p.content).join("").trim(), "Hi you.");
assert.deepEqual(streamed.flatMap((p) => p.tool_calls ?? []).map((c) => c.args), [CALLED]);

// ---- schemas, in all three ways
const schema = { title: "verdict", type: "object", properties: { yes: { type: "boolean" }, grade: { type: "integer", minimum: 1, maximum: 5 } },
  required: ["yes", "grade"], additionalProperties: false };
const random = chat("tiny", { seed: 5, numPredict: 400 });
const value = await random.withStructuredOutput(schema, { method: "jsonSchema" }).invoke("?");
assert.deepEqual(Object.keys(value), ["yes", "grade"]);
assert.ok(typeof value.yes === "boolean" && value.grade >= 1 && value.grade <= 5);
const loose = await random.withStructuredOutput({ type: "object" }, { method: "jsonMode", includeRaw: true }).invoke("?");
assert.equal(typeof loose.parsed, "object");
const byCall = chat("tiny-tool").withStructuredOutput(tool.function.parameters, { method: "functionCalling", name: "get_weather" });
assert.deepEqual(await byCall.invoke("?"), CALLED);

// ---- thinking
const thought = await chat("tiny-think", { think: true }).invoke("?");
assert.equal(thought.additional_kwargs.reasoning_content, "hm, well");
assert.ok(thought.content.endsWith("Yes."));
assert.ok(!(await chat("tiny-think", { think: false }).invoke("?")).content.includes("think"));

// ---- the other classes
const completion = new Ollama({ model: "tiny-hello", baseUrl });
assert.equal(await completion.invoke("hi"), HELLO);
let text = "";
for await (const piece of await completion.stream("hi")) text += piece;
assert.equal(text, HELLO);
const embedder = new OllamaEmbeddings({ model: "tiny", baseUrl });
const vectors = await embedder.embedDocuments(["ab", "x"]);
assert.deepEqual(vectors.map((v) => v.indexOf(1)), ["b", "x"].map((c) => c.charCodeAt(0)));
assert.deepEqual(await embedder.embedQuery("x"), vectors[1]);
assert.equal((await new OllamaEmbeddings({ model: "tiny", baseUrl, dimensions: 130 }).embedQuery("x")).length, 130);

// ---- errors
await assert.rejects(chat("nothere").invoke("hi"), refused(404, "model 'nothere' not found"));
await assert.rejects(chat("tiny-hello", { think: true }).invoke("hi"), refused(400, '"tiny-hello" does not support thinking'));
await assert.rejects(chat("tiny-hello").bindTools([tool]).invoke("hi"), refused(400, "does not support tools"));
await assert.rejects(chat("tiny-hello", { numCtx: "big" }).invoke("hi"), refused(500, 'option "num_ctx" must be of type integer'));
const image = new HumanMessage({ content: [{ type: "text", text: "?" }, { type: "image_url", image_url: "data:image/png;base64,aGk=" }] });
await assert.rejects(chat("tiny-hello").invoke([image]), refused(400, "does not support vision"));
await assert.rejects(new OllamaEmbeddings({ model: "nothere", baseUrl, maxRetries: 0 }).embedQuery("x"), /nothere/);

// ---- a client who leaves: the caller looks whether its place is free
const leave = new AbortController();
let seen = 0;
await assert.rejects(async () => {
  for await (const piece of await chat("tiny", { numPredict: 1000000 }).stream("x", { signal: leave.signal })) {
    assert.ok(AIMessage.isInstance(piece));
    if (++seen === 5) leave.abort();
  }
});
assert.equal((await chat("tiny-hello").invoke("hi")).content, HELLO);
console.log("ok");
