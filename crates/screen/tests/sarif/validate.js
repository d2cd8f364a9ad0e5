// Validates SARIF logs: node validate.js PREFIX LOG... where PREFIX is a folder that npm installed
// @microsoft/jest-sarif into, which carries the schema of SARIF 2.1.0 and ajv. Prints what is wrong.
const path = require('path');
const fs = require('fs');

const [prefix, ...logs] = process.argv.slice(2);
const modules = path.join(path.resolve(prefix), 'node_modules');
const Ajv = require(path.join(modules, 'ajv'));
const ajv = new Ajv({ schemaId: 'auto', validateSchema: false, allErrors: true, format: 'full' });
ajv.addMetaSchema(require(path.join(modules, 'ajv/lib/refs/json-schema-draft-04.json')));
const validate = ajv.compile(
  require(path.join(modules, '@microsoft/jest-sarif/lib/schemas/sarif-2.1.0-rtm.5.json')),
);

let wrong = 0;
for (const log of logs) {
  if (!validate(JSON.parse(fs.readFileSync(log, 'utf8')))) {
    wrong += 1;
    for (const error of validate.errors.slice(0, 10)) {
      console.log(`${path.basename(log)}: ${error.dataPath} ${error.message}`);
    }
  }
}
process.exit(wrong === 0 ? 0 : 1);
