// SPDX-License-Identifier: Apache-2.0
package example;

import com.fasterxml.jackson.databind.JsonNode;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.slf4j.LoggerFactory;
import org.springframework.context.annotation.Bean;
import org.springframework.kafka.annotation.KafkaListener;
import org.springframework.kafka.listener.KafkaListenerErrorHandler;
import org.springframework.messaging.handler.annotation.Header;
import org.springframework.messaging.handler.annotation.Payload;
import org.springframework.messaging.handler.annotation.SendTo;
import org.springframework.stereotype.Component;

@Component
public class DeviceListener {
    private static final Map<String, String> MESSAGES = Map.of(
            "DEVICE_NOT_FOUND", "There is no such device",
            "ALREADY_BOUND", "The device is already bound",
            "EXECUTION_FAILED", "The device could not be bound");

    private final Map<String, String> owners = new ConcurrentHashMap<>();

    /** Replies by correlation id: Kafka may deliver a command again. A real service keeps them with its data. */
    private final Map<String, Map<String, Object>> executed = Collections.synchronizedMap(new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Map<String, Object>> eldest) {
            return size() > 100_000;
        }
    });

    /** What is returned becomes the reply's body; null sends nothing. @SendTo without a name: to kafka_replyTopic. */
    @KafkaListener(topics = "device.commands.v1", errorHandler = "answerFailure")
    @SendTo
    public Map<String, Object> handle(@Payload JsonNode command, @Header(name = "deadline", required = false) String deadline) {
        boolean late = deadline != null && Long.parseLong(deadline) < System.currentTimeMillis();
        if (late || !command.path("eventType").asText().equals("device.command.bind")) {
            return null;
        }
        return executed.computeIfAbsent(command.path("correlationId").asText(), id -> bind(command));
    }

    private Map<String, Object> bind(JsonNode command) {
        String deviceId = command.path("payload").path("deviceId").asText();
        String userId = command.path("payload").path("userId").asText();
        if (deviceId.startsWith("BROKEN-")) {
            throw new IllegalStateException("the database is away"); // on purpose, to be seen
        }
        if (!deviceId.startsWith("GH-")) {
            return failure(command, "DEVICE_NOT_FOUND");
        }
        if (owners.putIfAbsent(deviceId, userId) != null) {
            return failure(command, "ALREADY_BOUND");
        }
        return response(command, true, Map.of("deviceId", deviceId, "userId", userId, "boundAt", now()));
    }

    /**
     * Without it an exception is retried nine times, logged, and nobody is answered: the caller waits the whole timeout.
     * What this returns is sent as the reply.
     */
    @Bean
    static KafkaListenerErrorHandler answerFailure() {
        return (message, exception) -> {
            LoggerFactory.getLogger(DeviceListener.class).error("a command failed", exception);
            return message.getPayload() instanceof JsonNode command ? failure(command, "EXECUTION_FAILED") : null;
        };
    }

    private static Map<String, Object> failure(JsonNode command, String code) {
        Map<String, Object> reply = response(command, false,
                Map.of("deviceId", command.path("payload").path("deviceId").asText()));
        reply.put("error", Map.of("code", code, "message", MESSAGES.get(code)));
        return reply;
    }

    private static Map<String, Object> response(JsonNode command, boolean success, Map<String, Object> payload) {
        Map<String, Object> reply = new LinkedHashMap<>();
        reply.put("eventType", "device.response.bind");
        reply.put("correlationId", command.path("correlationId").asText());
        reply.put("timestamp", now());
        reply.put("source", Map.of("type", "backend", "id", "spring-responder"));
        reply.put("__version", "v1");
        reply.put("success", success);
        reply.put("payload", payload);
        return reply;
    }

    private static String now() {
        return Instant.now().truncatedTo(ChronoUnit.MILLIS).toString();
    }
}
