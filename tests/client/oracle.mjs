// What the answers must be: a collection as a Map, searched by brute force in double precision.

const norm = (v) => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const f32 = (v) => Array.from(Float32Array.from(v));

export const distances = {
  Cosine: { score: (a, b) => dot(a, b) / ((norm(a) * norm(b)) || 1), larger: true },
  Dot: { score: dot, larger: true },
  Euclid: { score: (a, b) => norm(a.map((x, i) => x - b[i])), larger: false },
  Manhattan: { score: (a, b) => a.reduce((sum, x, i) => sum + Math.abs(x - b[i]), 0), larger: false },
};

// Values of a path such as "a.b", "tags", "items[].price". Arrays at the end count as their elements.
function at(value, parts) {
  if (parts.length === 0) return Array.isArray(value) ? value : [value];
  const [part, ...rest] = parts;
  const each = part.endsWith('[]');
  const next = value?.[each ? part.slice(0, -2) : part];
  if (next === undefined || value === null || typeof value !== 'object' || Array.isArray(value)) return [];
  if (each) return Array.isArray(next) ? next.flatMap((element) => at(element, rest)) : [];
  return at(next, rest);
}
const valuesAt = (payload, key) => at(payload, key.replace(/\[\]$/, '').split('.'));

const list = (x) => (x === undefined || x === null ? [] : Array.isArray(x) ? x : [x]);
const isTime = (x) => typeof x === 'string';

function inRange(value, range) {
  if (Object.values(range).some(isTime)) {
    const t = Date.parse(value);
    if (typeof value !== 'string' || Number.isNaN(t)) return false;
    return inRange(t, Object.fromEntries(Object.entries(range).map(([k, v]) => [k, Date.parse(v)])));
  }
  if (typeof value !== 'number') return false;
  return !(value <= range.gt) && !(value < range.gte) && !(value >= range.lt) && !(value > range.lte);
}

function holds(condition, id, payload) {
  if (condition.has_id) return condition.has_id.includes(id);
  if (condition.nested) {
    const elements = valuesAt(payload, condition.nested.key);
    return elements.some((e) => typeof e === 'object' && e !== null && matches(condition.nested.filter, id, e));
  }
  if (condition.is_empty?.key) return valuesAt(payload, condition.is_empty.key).filter((v) => v !== null).length === 0;
  if (condition.is_null?.key) return valuesAt(payload, condition.is_null.key).includes(null);
  if (!condition.key) return matches(condition, id, payload);
  const values = valuesAt(payload, condition.key);
  const { match, range, values_count } = condition;
  if (match?.value !== undefined) return values.includes(match.value);
  if (match?.any) return values.some((v) => match.any.includes(v));
  if (match?.except) return values.some((v) => v !== null && !match.except.includes(v));
  if (range) return values.some((v) => inRange(v, range));
  if (values_count) return inRange(values.filter((v) => v !== null).length, values_count);
  throw new Error(`the oracle does not know ${JSON.stringify(condition)}`);
}

export function matches(filter, id, payload) {
  if (!filter) return true;
  const check = (condition) => holds(condition, id, payload);
  const should = list(filter.should);
  return list(filter.must).every(check) && !list(filter.must_not).some(check) &&
    (should.length === 0 || should.some(check)) &&
    (!filter.min_should || list(filter.min_should.conditions).filter(check).length >= filter.min_should.min_count);
}

// Numbers before UUIDs, each by value: the order of ids everywhere.
export function compareIds(a, b) {
  if (typeof a !== typeof b) return typeof a === 'number' ? -1 : 1;
  return a < b ? -1 : a > b ? 1 : 0;
}

export class Oracle {
  constructor(distance) {
    this.distance = distances[distance];
    this.points = new Map(); // id -> {vector, payload}
  }
  upsert(points) {
    for (const { id, vector, payload } of points) this.points.set(id, { vector: f32(vector), payload: payload ?? {} });
  }
  matching(filter) {
    return [...this.points].filter(([id, p]) => matches(filter, id, p.payload)).sort((a, b) => compareIds(a[0], b[0]));
  }
  // Best first; `except`: an id that a search by id leaves out.
  search(query, { filter, limit = 10, offset = 0, score_threshold, except } = {}) {
    const sign = this.distance.larger ? -1 : 1;
    return this.matching(filter)
      .filter(([id]) => id !== except)
      .map(([id, p]) => ({ id, score: this.distance.score(f32(query), p.vector), payload: p.payload }))
      .filter((hit) => score_threshold === undefined || sign * (hit.score - score_threshold) <= 1e-9)
      .sort((a, b) => sign * (a.score - b.score) || compareIds(a.id, b.id))
      .slice(offset, offset + limit);
  }
}
