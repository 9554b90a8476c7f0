// SPDX-License-Identifier: Apache-2.0
import 'reflect-metadata';
import { Module } from '@nestjs/common';
import { NestFactory } from '@nestjs/core';
import { MicroserviceOptions, Transport } from '@nestjs/microservices';
import { DevicesController } from './devices.controller';

@Module({ controllers: [DevicesController] })
class AppModule {}

async function bootstrap() {
  const app = await NestFactory.createMicroservice<MicroserviceOptions>(AppModule, {
    transport: Transport.KAFKA,
    options: {
      client: { clientId: 'nestjs-responder', brokers: (process.env.KAFKA_BROKERS ?? '127.0.0.1:9092').split(',') },
      // NestJS makes the group "nestjs-responder-server" of it.
      consumer: { groupId: process.env.KAFKA_GROUP ?? 'nestjs-responder' },
      // A new group starts with what is there: nothing is lost, and the deadline drops what is old.
      subscribe: { fromBeginning: true },
    },
  });
  app.enableShutdownHooks();
  await app.listen(); // returns when the group was joined
  console.log('ready');
}

void bootstrap();
