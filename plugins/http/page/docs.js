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

const resolved = (schema, all) => {
  if (schema.$ref) return resolved(all[schema.$ref.split("/").pop()], all);
  const some = (schema.anyOf || []).filter((one) => one.type !== "null").map((one) => resolved(one, all));
  return some.length ? { ...some[0], ...schema } : schema;
};

const told = (schema) => {
  const words = [schema.enum ? schema.enum.join(" | ") : schema.type || "any JSON value"];
  if (schema.minimum !== undefined) words.push(`${schema.minimum} or more`);
  if (schema.maximum !== undefined && schema.maximum < 2 ** 53) words.push(`at most ${schema.maximum}`);
  if (schema.default !== undefined && schema.default !== null) words.push(`default ${JSON.stringify(schema.default)}`);
  return words.join(", ");
};

const field = (schema, parent) => {
  if (!schema.enum) return make("input", undefined, parent);
  const select = make("select", undefined, parent);
  for (const value of ["", ...schema.enum]) make("option", value, select);
  return select;
};

const showBody = (body, parent, all) => {
  const schema = resolved(body.content["application/json"].schema, all);
  const names = Object.keys(schema.properties || {});
  const list = names.length ? make("dl", undefined, parent) : null;
  for (const name of names) {
    const one = resolved(schema.properties[name], all);
    make("dt", `${name}${(schema.required || []).includes(name) ? " *" : ""}: ${told(one)}`, list);
    make("dd", one.description, list);
  }
  const area = make("textarea", JSON.stringify(example(schema, all), null, 2), parent);
  area.rows = 6;
  return area;
};

const show = (method, path, operation, parent, all) => {
  const details = make("details", undefined, parent);
  const summary = make("summary", undefined, details);
  make("b", method.toUpperCase(), summary);
  summary.append(path);
  make("i", operation.summary, summary);
  make("p", operation.description, details);
  const fields = (operation.parameters || []).map((parameter) => {
    const schema = resolved(parameter.schema, all);
    const label = make("label", undefined, details);
    make("span", parameter.name + (parameter.required ? " *" : ""), label);
    const input = field(schema, label);
    label.append(` ${[told(schema), parameter.description || schema.description].filter(Boolean).join(": ")}`);
    return [parameter, input];
  });
  const body = operation.requestBody ? showBody(operation.requestBody, details, all) : null;
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
