import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Command } from 'commander';
import { createProgram } from './program.ts';

function allCommands(command: Command): Command[] {
  return [command, ...command.commands.flatMap(allCommands)];
}

test('every command can be made, says what it does, and documents each argument and option', async () => {
  const commands = allCommands(await createProgram(() => {}));
  assert.ok(commands.length > 20, `only ${commands.length} commands were made`);
  for (const command of commands) {
    const name = command.name();
    assert.notEqual(command.description(), '', `${name} has no description`);
    assert.match(command.helpInformation(), /^Usage: plumb/, name);
    for (const { flags, description } of command.options)
      assert.notEqual(description, '', `${name} ${flags} is not described`);
    for (const argument of command.registeredArguments)
      assert.notEqual(argument.description, '', `${name} <${argument.name()}> is not described`);
  }
});

test('whatever asks a service at an address can show certificates and a token', async () => {
  for (const command of allCommands(await createProgram(() => {}))) {
    const names = new Set(command.options.map(({ long }) => long));
    // `top` reads metrics endpoints, which speak plain HTTP.
    if (!names.has('--address') || command.name() === 'top') continue;
    for (const name of ['--ca', '--cert', '--key', '--token-file'])
      assert.ok(names.has(name), `${command.name()} has --address and not ${name}`);
  }
});
