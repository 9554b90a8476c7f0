// SPDX-License-Identifier: Apache-2.0
import { Controller } from '@nestjs/common';
import { Ctx, KafkaContext, MessagePattern, Payload } from '@nestjs/microservices';

interface Bind {
  deviceId: string;
  userId: string;
  bindingToken: string;
}

interface Command {
  eventType: string;
  correlationId: string;
  payload?: Bind;
}

const MESSAGES = {
  DEVICE_NOT_FOUND: 'There is no such device',
  ALREADY_BOUND: 'The device is already bound',
  VALIDATION_FAILED: 'The command has no deviceId',
};

@Controller()
export class DevicesController {
  private readonly owners = new Map<string, string>();
  /** Replies by correlation id: Kafka may deliver a command again. A real service keeps them with its data. */
  private readonly executed = new Map<string, object>();

  /** What is returned becomes the reply's body; NestJS sends it to kafka_replyTopic with kafka_correlationId. */
  @MessagePattern('device.commands.v1')
  handle(@Payload() command: Command | null, @Ctx() context: KafkaContext) {
    const deadline = Number(context.getMessage().headers?.['deadline'] ?? Infinity);
    // NestJS sends a record all the same, without a body; the gateway takes it for no answer. Never return EMPTY: NestJS
    // would wait for a first value for ever, and the partition with it.
    if (command?.eventType !== 'device.command.bind' || deadline < Date.now()) return undefined;
    if (typeof command.payload?.deviceId !== 'string') return this.failure(command, 'VALIDATION_FAILED');
    let reply = this.executed.get(command.correlationId);
    if (!reply) {
      reply = this.bind(command, command.payload);
      this.executed.set(command.correlationId, reply);
      if (this.executed.size > 100_000) this.executed.delete(this.executed.keys().next().value!);
    }
    return reply;
  }

  private bind(command: Command, { deviceId, userId }: Bind) {
    // Thrown on purpose, to be seen: NestJS sends kafka_nest-err and no body.
    if (deviceId.startsWith('BROKEN-')) throw new Error('the database is away');
    if (!deviceId.startsWith('GH-')) return this.failure(command, 'DEVICE_NOT_FOUND');
    if (this.owners.has(deviceId)) return this.failure(command, 'ALREADY_BOUND');
    this.owners.set(deviceId, userId);
    return this.response(command, { success: true, payload: { deviceId, userId, boundAt: new Date().toISOString() } });
  }

  private failure(command: Command, code: keyof typeof MESSAGES) {
    const payload = { deviceId: command.payload?.deviceId };
    return this.response(command, { success: false, error: { code, message: MESSAGES[code] }, payload });
  }

  private response(command: Command, rest: object) {
    return {
      eventType: 'device.response.bind',
      correlationId: command.correlationId,
      timestamp: new Date().toISOString(),
      source: { type: 'backend', id: 'nestjs-responder' },
      __version: 'v1',
      ...rest,
    };
  }
}
