// The real JavaScript client of Ollama: node ollama.mjs URL. Prints "ok" and ends with 0 when everything was as expected.
import assert from "node:assert/strict";
import { Ollama } from "ollama";

const ollama = new Ollama({ host: process.argv[2] });
const HELLO = "Hello world! Grün 🙂";
const messages = [{ role: "user", content: "hi" }];

const { models } = await ollama.list();
assert.ok(models.some((m) => m.name === "tiny-hello:latest"));
assert.deepEqual((await ollama.show({ model: "tiny-tool" })).capabilities, ["completion", "tools"]);
assert.equal((await ollama.version()).version, "0.33.0");

assert.equal((await ollama.generate({ model: "tiny-hello", prompt: "hi" })).response, HELLO);
assert.equal((await ollama.chat({ model: "tiny-hello", messages })).message.content, HELLO);

let text = "";
let last;
for await (const part of await ollama.chat({ model: "tiny-hello", messages, stream: true })) {
  text += part.message.content;
  last = part;
}
assert.equal(text, HELLO);
assert.equal(last.done, true);
assert.equal(typeof last.total_duration, "number");

const tools = [{ type: "function", function: { name: "get_weather", parameters: { type: "object", properties: {} } } }];
const called = await ollama.chat({ model: "tiny-tool", messages, tools });
assert.deepEqual(called.message.tool_calls[0].function.arguments, { city: "Paris", days: 2 });

const thought = await ollama.chat({ model: "tiny-think", messages, think: true });
assert.equal(thought.message.thinking, "hm, well");
assert.equal(thought.message.content, "Yes.");

const thoughts = { thinking: "", content: "" };
for await (const part of await ollama.chat({ model: "tiny-think", messages, stream: true })) {
  thoughts.thinking += part.message.thinking ?? "";
  thoughts.content += part.message.content;
}
assert.deepEqual(thoughts, { thinking: "hm, well", content: "Yes." });

const calls = [];
for await (const part of await ollama.chat({ model: "tiny-spaced", messages, tools, stream: true })) calls.push(...(part.message.tool_calls ?? []));
assert.deepEqual(calls.map((c) => c.function), [{ index: 0, name: "get_weather", arguments: { city: "Paris", days: 2 } }]);
const after = [...messages, called.message, { role: "tool", tool_name: "get_weather", content: "sun" }];
assert.equal((await ollama.chat({ model: "tiny-tool", messages: after, tools })).message.tool_calls.length, 1);

const format = { type: "object", properties: { yes: { type: "boolean" } }, required: ["yes"], additionalProperties: false };
const options = { seed: 5, num_predict: 300 };
assert.deepEqual(Object.keys(JSON.parse((await ollama.chat({ model: "tiny", messages, format, options })).message.content)), ["yes"]);
assert.equal(typeof JSON.parse((await ollama.generate({ model: "tiny", prompt: "x", format: "json", options })).response), "object");
assert.equal((await ollama.generate({ model: "tiny-fim", prompt: "def f():", suffix: "\n" })).response, "return 1");

const { embeddings } = await ollama.embed({ model: "tiny", input: ["ab", "x"] });
assert.deepEqual(embeddings.map((v) => v.indexOf(1)), ["b", "x"].map((c) => c.charCodeAt(0)));
assert.ok((await ollama.embeddings({ model: "tiny", prompt: "x" })).embedding["x".charCodeAt(0)] > 2);
await assert.rejects(ollama.embed({ model: "nothere", input: "x" }), /not found/);

const refused = (status, text) => (e) => e.status_code === status && e.message.includes(text);
await assert.rejects(ollama.chat({ model: "nothere", messages }), refused(404, "model 'nothere' not found"));
await assert.rejects(ollama.chat({ model: "nothere", messages, stream: true }), refused(404, "model 'nothere' not found"));
await assert.rejects(ollama.show({ model: "nothere" }), refused(404, "model 'nothere:latest' not found"));
await assert.rejects(ollama.delete({ model: "nothere" }), refused(404, "model 'nothere' not found"));
await assert.rejects(ollama.chat({ model: "tiny-hello", messages, tools }), refused(400, "does not support tools"));
await assert.rejects(ollama.chat({ model: "tiny-hello", messages, think: true }), refused(400, "does not support thinking"));
await assert.rejects(ollama.generate({ model: "tiny-hello", prompt: "x", images: ["aGk="] }), refused(400, "does not support vision"));
await assert.rejects(ollama.generate({ model: "tiny-hello", prompt: "x", keep_alive: "300" }), refused(400, "missing unit in duration"));
await assert.rejects(ollama.generate({ model: "tiny-hello", prompt: "x", options: { num_ctx: "4k" } }), refused(500, 'option "num_ctx" must be of type integer'));

// abort() must end the stream here and free the place there
const endless = await ollama.generate({ model: "tiny", prompt: "x", stream: true, options: { num_predict: 1000000 } });
let seen = 0;
await assert.rejects(async () => {
  for await (const part of endless) if (part.response && ++seen === 5) endless.abort();
}, { name: "AbortError" });

// models are made, copied and taken away
assert.equal((await ollama.create({ model: "mjs", from: "tiny-hello", system: "be kind", parameters: { num_predict: 3 } })).status, "success");
assert.equal((await ollama.chat({ model: "mjs", messages })).message.content, "Hello world");
const steps = [];
for await (const step of await ollama.create({ model: "mjs2", from: "mjs", license: "free", stream: true })) steps.push(step.status);
assert.equal(steps.at(-1), "success");
await ollama.copy({ source: "mjs2", destination: "mjs3" });
assert.equal((await ollama.show({ model: "mjs3" })).license, "free");
for (const model of ["mjs", "mjs2", "mjs3"]) assert.equal((await ollama.delete({ model })).status, "success");
assert.ok(!(await ollama.list()).models.some((m) => m.name.startsWith("mjs")));
await assert.rejects(ollama.copy({ source: "nothere", destination: "x" }), refused(404, 'model "nothere" not found'));
await assert.rejects(ollama.create({ model: "x" }), refused(400, "neither 'from' or 'files' was specified"));
await assert.rejects(ollama.pull({ model: "nothere" }), refused(500, "HF_HUB_OFFLINE"));
await assert.rejects(async () => { for await (const _ of await ollama.pull({ model: "nothere", stream: true })); }, /HF_HUB_OFFLINE/);

assert.ok((await ollama.ps()).models.length > 0);
await ollama.generate({ model: "tiny-hello", prompt: "", keep_alive: 0 });
console.log("ok");
