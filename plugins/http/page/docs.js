"use strict";

const make = (tag, text, parent) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
};

const example = (schema, all) => {
  if (!schema) return null;
  if (schema.$ref) return example(all[schema.$ref.split("/").pop()], all);
  if (schema.default !== undefined) return schema.default;
  if (schema.anyOf) return example(schema.anyOf[0], all);
  if (schema.enum) return schema.enum[0];
  if (schema.type === "object") {
    return Object.fromEntries((schema.required || []).map((name) => [name, example(schema.properties[name], all)]));
  }
  return { string: "", integer: schema.minimum || 0, number: 0, boolean: false, array: [] }[schema.type] ?? "text";
};

const send = async (method, path, fields, body, output) => {
  const query = new URLSearchParams();
  const headers = {};
  for (const [parameter, input] of fields) {
    if (parameter.in === "path") {
      const text = parameter.name === "topic" || parameter.name === "device"
        ? input.value.split("/").map(encodeURIComponent).join("/") : encodeURIComponent(input.value);
      path = path.replace(`{${parameter.name}}`, text);
    } else if (input.value !== "") {
      if (parameter.in === "query") query.append(parameter.name, input.value);
      else headers[parameter.name] = input.value;
    }
  }
  const authorization = document.getElementById("authorization").value;
  if (authorization) headers.Authorization = authorization;
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path + (query.size ? `?${query}` : ""), { method, headers, body: body ? body.value : undefined });
  const text = await response.text();
  let shown = text;
  try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON */ }
  output.textContent = `${response.status} ${response.statusText}\n${shown}`;
};

const show = (method, path, operation, parent, all) => {
  const details = make("details", undefined, parent);
  const summary = make("summary", undefined, details);
  make("b", method.toUpperCase(), summary);
  summary.append(path);
  make("p", operation.description || operation.summary, details);
  const fields = (operation.parameters || []).map((parameter) => {
    const label = make("label", undefined, details);
    make("span", parameter.name + (parameter.required ? " *" : ""), label);
    const input = make("input", undefined, label);
    if (parameter.description || parameter.schema.description) label.append(" " + (parameter.description || parameter.schema.description));
    return [parameter, input];
  });
  let body = null;
  if (operation.requestBody) {
    body = make("textarea", JSON.stringify(example(operation.requestBody.content["application/json"].schema, all), null, 2), details);
    body.rows = 6;
  }
  const button = make("button", "Send", details);
  const output = make("pre", "", details);
  button.addEventListener("click", () => {
    send(method.toUpperCase(), path, fields, body, output).catch((error) => { output.textContent = String(error); });
  });
};

(async () => {
  const api = await (await fetch("/openapi.json")).json();
  document.getElementById("about").textContent = api.info.description;
  const sections = {};
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = (operation.tags || ["other"])[0];
      if (!sections[tag]) {
        sections[tag] = make("section", undefined, document.getElementById("operations"));
        make("h2", tag, sections[tag]);
      }
      show(method, path, operation, sections[tag], api.components.schemas);
    }
  }
})();
