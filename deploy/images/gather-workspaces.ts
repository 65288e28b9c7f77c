/**
 * Puts the workspaces that an installation uses into a folder, and nothing else of the repository: npm has linked them in
 * node_modules. `node gather-workspaces.ts <folder>`, in the folder of the installation.
 */
import { cpSync, readdirSync, realpathSync } from 'node:fs';
import { join, relative } from 'node:path';

const target = process.argv[2];
if (target === undefined) throw new Error('there is no folder; name the one to put workspaces into');
const installation = realpathSync(process.cwd());
const scope = join(installation, 'node_modules/@plumb');
for (const name of readdirSync(scope)) {
  const workspace = realpathSync(join(scope, name));
  cpSync(workspace, join(target, relative(installation, workspace)), { recursive: true });
}
