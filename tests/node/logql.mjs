// Read a JSON list of LogQL queries from stdin. Write a JSON list with, for each query: the place of the first
// syntax error (null: none), and the text of each stream selector, line filter and label name.
// Its argument is the folder node_modules.

import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';

const { parser } = createRequire(`${process.argv[2]}/`)('@grafana/lezer-logql');

function read(query) {
  const found = { error: null, selectors: [], lineFilters: [], nodes: [] };
  parser.parse(query).iterate({
    enter(node) {
      const text = query.slice(node.from, node.to);
      if (node.type.isError) {
        found.error ??= `column ${node.from + 1}: ${text || 'the end'}`;
      } else if (node.name === 'Selector') {
        found.selectors.push(text);
      } else if (node.name === 'LineFilter') {
        found.lineFilters.push(text);
      }
      found.nodes.push(node.name);
    },
  });
  return found;
}

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(read)));
