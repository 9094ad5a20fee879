// The HTTP API's specification as a judge: every response body must validate against it.
import { readFileSync } from 'node:fs';
import Ajv from 'ajv';
import addFormats from 'ajv-formats';

const spec = JSON.parse(readFileSync(new URL('./openapi-1.19.0.json', import.meta.url)));

// OpenAPI 3.0 says `nullable: true`; JSON Schema says `type: [..., "null"]`.
function toJsonSchema(node) {
  if (Array.isArray(node)) return node.map(toJsonSchema);
  if (node === null || typeof node !== 'object') return node;
  const out = {};
  for (const [key, value] of Object.entries(node)) {
    if (key === 'nullable' || key === 'example' || key === 'examples' || key === 'discriminator') continue;
    if (key === 'format' && ['uint', 'uint16', 'uint32', 'uint64', 'int32', 'int64', 'float', 'double'].includes(value)) continue;
    out[key] = toJsonSchema(value);
  }
  if (node.nullable) {
    if (Object.keys(out).length === 0) return { type: 'null' };
    if (out.enum && out.type) return { anyOf: [out, { type: 'null' }] };
    if (out.type) out.type = [].concat(out.type, 'null');
    else return { anyOf: [out, { type: 'null' }] };
  }
  return out;
}

const ajv = new Ajv({ strict: false, allErrors: false, validateFormats: true });
addFormats(ajv);
ajv.addSchema({ $id: 'api', components: toJsonSchema(spec.components) });

const routes = Object.entries(spec.paths).map(([template, methods]) => ({
  template,
  methods,
  pattern: new RegExp('^' + template.replace(/\{[^}]+\}/g, '[^/]+') + '/?$'),
  fixed: template.split('/').filter((part) => part && !part.startsWith('{')).length,
}));

const compiled = new Map();

// Returns {known, template, errors}: what the specification says of this answer.
export function check(method, path, status, body) {
  const matches = routes.filter((r) => r.pattern.test(path) && r.methods[method.toLowerCase()]);
  const route = matches.sort((a, b) => b.fixed - a.fixed)[0];
  if (!route) return { known: false };
  const responses = route.methods[method.toLowerCase()].responses;
  const response = responses[status] ?? (status >= 400 ? responses['4XX'] ?? responses.default : responses.default);
  const schema = response?.content?.['application/json']?.schema;
  if (!schema) return { known: true, template: route.template, errors: null };
  const key = `${method} ${route.template} ${status >= 400 ? 'error' : status}`;
  if (!compiled.has(key)) {
    const own = JSON.parse(JSON.stringify(toJsonSchema(schema)).replaceAll('"#/components/', '"api#/components/'));
    compiled.set(key, ajv.compile(own));
  }
  const validate = compiled.get(key);
  return { known: true, template: `${method} ${route.template}`, errors: validate(body) ? null : ajv.errorsText(validate.errors) };
}
