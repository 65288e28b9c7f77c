/**
 * Leaves of ONNX Runtime what an image needs: the libraries of its platform, and for `cuda` the CUDA provider, which the
 * package's own script fetches. `node fit-onnx-runtime.ts cpu|cuda`, in the folder of the installation.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const variant = process.argv[2];
if (variant !== 'cpu' && variant !== 'cuda')
  throw new Error(`the variant is '${variant ?? ''}'; build with VARIANT=cpu or VARIANT=cuda`);
const folder = join(process.cwd(), 'node_modules/onnxruntime-node');
for (const api of readdirSync(join(folder, 'bin'))) {
  for (const platform of readdirSync(join(folder, 'bin', api))) {
    for (const architecture of readdirSync(join(folder, 'bin', api, platform))) {
      if (platform !== process.platform || architecture !== process.arch)
        rmSync(join(folder, 'bin', api, platform, architecture), { recursive: true });
    }
  }
}
if (variant === 'cuda') {
  // The variable goes before an argument, and the build has it set to skip.
  execFileSync(process.execPath, [join(folder, 'script/install.js')], {
    env: { ...process.env, ONNXRUNTIME_NODE_INSTALL: 'cuda12' },
    stdio: 'inherit',
  });
}
