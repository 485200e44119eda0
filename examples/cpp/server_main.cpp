// garment_transfer_server: garment transfer over HTTP, with the same requests, answers and metrics
// as examples/python_server.
//
//   POST /transfer      multipart/form-data: the files person_image, person_parsing,
//                       person_densepose, garment_image, garment_parsing, garment_densepose and the
//                       fields person_label_set and garment_label_set; or the photos without their
//                       maps, which the bundle then makes; answers with a PNG
//   GET /health/live    200
//   GET /health/ready   200 while it takes requests, 503 while it stops
//   GET /metrics        Prometheus text
//
// A refusal is JSON, {"code": ..., "detail": ...}. Connections have threads of their own, so that a
// slow client holds one of these and nothing else; requests that are whole wait for one of the
// sessions. SIGTERM and SIGINT stop it: what was taken is answered.
//
// Settings are environment variables, GARMENT_TRANSFER_ and the name:
//
//   SESSIONS      each on one thread [one per core]
//   MAX_PENDING   requests at a time; one more is answered 429 [32]
//   CONNECTIONS   clients that are served at once [64]
//   MAX_BODY_MB   megabytes of a request; more is answered 413 [32]
//   MAX_SIDE      most pixels on a side of an image; more is answered 413 [4096]
//   IDLE_SECONDS  without a byte until a connection ends [10]

#include <httplib.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <garment_transfer/garment_transfer.hpp>
#include <iostream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "images.h"

namespace {

using Clock = std::chrono::steady_clock;

// A whole number of the environment, such as GARMENT_TRANSFER_MAX_PENDING.
int setting(const std::string& name, int otherwise, int most) {
  const std::string variable = "GARMENT_TRANSFER_" + name;
  const char* value = std::getenv(variable.c_str());
  if (!value) return otherwise;
  std::istringstream text(value);
  int number = 0;
  if (text >> number && text.eof() && number >= 1 && number <= most) return number;
  throw std::invalid_argument(variable + " is '" + value + "'; expected a number from 1 to " +
                              std::to_string(most));
}

struct Settings {
  int sessions = setting("SESSIONS", std::max(1, int(std::thread::hardware_concurrency())), 1024);
  int max_pending = setting("MAX_PENDING", 32, 100000);
  int connections = setting("CONNECTIONS", 64, 10000);
  int max_body_mb = setting("MAX_BODY_MB", 32, 1024);
  int max_side = setting("MAX_SIDE", 4096, example::kMaxSide);
  int idle_seconds = setting("IDLE_SECONDS", 10, 3600);
};

// Sessions that requests wait for.
class Sessions {
 public:
  Sessions(const garment_transfer::Pipeline& pipeline, int count) {
    for (int i = 0; i < count; ++i) free_.emplace_back(pipeline);
  }

  // What `work` makes of a session that nobody else has meanwhile.
  template <typename Work>
  auto with(const Work& work) {
    std::unique_lock<std::mutex> lock(guard_);
    wake_.wait(lock, [this] { return !free_.empty(); });
    garment_transfer::Session session = std::move(free_.back());
    free_.pop_back();
    lock.unlock();
    const Back back{*this, session};
    return work(session);
  }

 private:
  struct Back {
    Sessions& sessions;
    garment_transfer::Session& session;
    ~Back() {
      {
        const std::lock_guard<std::mutex> lock(sessions.guard_);
        sessions.free_.push_back(std::move(session));
      }
      sessions.wake_.notify_one();
    }
  };

  std::mutex guard_;
  std::condition_variable wake_;
  std::vector<garment_transfer::Session> free_;
};

// Counters in the form that Prometheus reads.
class Metrics {
 public:
  std::atomic<int> pending{0};

  void count(int status) {
    const std::lock_guard<std::mutex> lock(guard_);
    ++answers_[status];
  }

  void took(double seconds) {
    const std::lock_guard<std::mutex> lock(guard_);
    for (std::size_t i = 0; i < kBounds.size(); ++i) within_[i] += seconds <= kBounds[i];
    seconds_ += seconds;
    ++transfers_;
  }

  std::string text() const {
    const std::lock_guard<std::mutex> lock(guard_);
    std::ostringstream out;
    out << "# TYPE garment_transfer_requests_total counter\n";
    for (const auto& [status, count] : answers_) {
      out << "garment_transfer_requests_total{status=\"" << status << "\"} " << count << '\n';
    }
    const char* const seconds = "garment_transfer_request_seconds";
    out << "# TYPE " << seconds << " histogram\n";
    for (std::size_t i = 0; i < kBounds.size(); ++i) {
      out << seconds << "_bucket{le=\"" << kBounds[i] << "\"} " << within_[i] << '\n';
    }
    out << seconds << "_bucket{le=\"+Inf\"} " << transfers_ << '\n'
        << seconds << "_sum " << seconds_ << '\n'
        << seconds << "_count " << transfers_ << '\n'
        << "# TYPE garment_transfer_pending gauge\ngarment_transfer_pending " << pending << '\n';
    return out.str();
  }

 private:
  static constexpr std::array kBounds = {0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8};
  mutable std::mutex guard_;
  std::map<int, unsigned long> answers_;
  std::array<unsigned long, kBounds.size()> within_{};
  double seconds_ = 0;
  unsigned long transfers_ = 0;
};

void refuse(httplib::Response& response, int status, const std::string& code,
            const std::string& detail) {
  response.status = status;
  const nlohmann::json body = {{"code", code}, {"detail", detail}};
  // messages may quote what a client sent
  response.set_content(body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                       "application/json");
}

// The person of one role, from files and fields of a form.
garment_transfer::Person person_of(const httplib::Request& request, const std::string& role,
                                   int max_side, const garment_transfer::Pipeline& pipeline) {
  const auto has = [&](const char* field) { return request.has_file(role + "_" + field); };
  const auto content = [&](const char* field) -> const std::string& {
    if (has(field)) return request.files.find(role + "_" + field)->second.content;
    throw example::InputError("fields_invalid",
                              "the form has no " + role + "_" + field +
                                  "; expected image, parsing, densepose and label_set of person "
                                  "and garment, or images alone");
  };
  const std::string image_name = role + "_image", parsing_name = role + "_parsing",
                    densepose_name = role + "_densepose";
  example::Image parsing, densepose;
  garment_transfer::PersonSource source;
  const example::Image image = example::read_photo(content("image"), image_name, max_side);
  source.photo = image.picture(image_name.c_str());
  if (has("parsing") || has("densepose") || has("label_set") || has("encoding")) {
    parsing = example::read_map(content("parsing"), parsing_name, max_side);
    densepose = example::read_map(content("densepose"), densepose_name, max_side);
    source.parsing = parsing.picture(parsing_name.c_str());
    source.densepose = densepose.picture(densepose_name.c_str());
    source.label_set = content("label_set");
    if (has("encoding")) source.densepose_encoding = content("encoding");
  } else {
    source.name = image_name;
  }
  return garment_transfer::Person(source, &pipeline);
}

// Answers a request for a transfer that holds a slot.
void transfer(const httplib::Request& request, httplib::Response& response, int max_side,
              Sessions& sessions, const garment_transfer::Pipeline& pipeline) {
  if (!request.is_multipart_form_data()) {
    return refuse(response, 400, "body_invalid", "the body is not multipart/form-data");
  }
  try {
    response.set_content(sessions.with([&](garment_transfer::Session& session) {
      const auto finished = session.transfer(person_of(request, "person", max_side, pipeline),
                                             person_of(request, "garment", max_side, pipeline));
      return example::write_png(finished.size.height, finished.size.width, finished.image.data());
    }),
                         "image/png");
  } catch (const example::InputError& error) {
    const bool large = error.code() == std::string("image_size");
    refuse(response, large ? 413 : 422, large ? "too_large" : error.code(), error.what());
  } catch (const garment_transfer::Error& error) {
    // what is wrong with photos and maps is the client's
    if (error.status() != GT_ARRAY_INVALID && error.status() < GT_IMAGE_MODE) throw;
    refuse(response, 422, error.code(), error.what());
  }
}

void serve(const std::string& bundle, const std::string& host, int wish) {
  const Settings settings;
  // Sessions are the parallelism.
  garment_transfer::Options options;
  options.threads = 1;
  const garment_transfer::Pipeline pipeline(bundle, options);
  Sessions sessions(pipeline, settings.sessions);
  Metrics metrics;
  std::atomic<bool> stopping{false};

  httplib::Server server;
  server.new_task_queue = [&] {
    return new httplib::ThreadPool(static_cast<std::size_t>(settings.connections));
  };
  server.set_tcp_nodelay(true);
  server.set_read_timeout(settings.idle_seconds);
  server.set_write_timeout(settings.idle_seconds);
  server.set_keep_alive_max_count(1000000);
  server.set_keep_alive_timeout(1);
  server.set_payload_max_length(static_cast<std::size_t>(settings.max_body_mb) * 1000000);

  server.Get("/health/live", [&](const httplib::Request&, httplib::Response& response) {
    response.set_content("{\"status\":\"live\"}", "application/json");
  });
  server.Get("/health/ready", [&](const httplib::Request&, httplib::Response& response) {
    if (stopping) return refuse(response, 503, "not_ready", "the server stops");
    response.set_content("{\"status\":\"ready\"}", "application/json");
  });
  server.Get("/metrics", [&](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics.text(), "text/plain; version=0.0.4");
  });
  server.Post("/transfer", [&](const httplib::Request& request, httplib::Response& response) {
    const auto start = Clock::now();
    if (metrics.pending.fetch_add(1) < settings.max_pending) {
      try {
        transfer(request, response, settings.max_side, sessions, pipeline);
      } catch (const std::exception& error) {
        std::cerr << "Error: " << error.what() << std::endl;
        const auto* known = dynamic_cast<const garment_transfer::Error*>(&error);
        const bool foreseen = known && known->status() != GT_INTERNAL_ERROR;
        refuse(response, 500, foreseen ? known->code() : "internal_error",
               foreseen ? error.what() : "the server failed, and its log says why");
      }
    } else {
      response.set_header("Retry-After", "1");
      refuse(response, 429, "busy", "all slots are taken; send it again after Retry-After");
    }
    --metrics.pending;
    if (response.status == -1) {  // not refused
      metrics.took(std::chrono::duration<double>(Clock::now() - start).count());
    }
  });
  // What the library refuses by itself has no body yet.
  server.set_error_handler(httplib::Server::HandlerWithResponse(
      [](const httplib::Request&, httplib::Response& response) {
        if (!response.body.empty()) return httplib::Server::HandlerResponse::Unhandled;
        if (response.status == 413) {
          refuse(response, 413, "too_large", "the request is too large; send smaller files");
        } else if (response.status == 404) {
          refuse(response, 404, "not_found", "there is POST /transfer, GET /health and /metrics");
        } else {
          refuse(response, response.status, "body_invalid", "the request is broken or not whole");
        }
        return httplib::Server::HandlerResponse::Handled;
      }));
  // before the answer is sent: who has it finds it counted
  server.set_post_routing_handler(
      [&](const httplib::Request& request, httplib::Response& response) {
        if (request.path == "/transfer") metrics.count(response.status);
      });

  const int port =
      wish ? (server.bind_to_port(host, wish) ? wish : -1) : server.bind_to_any_port(host);
  if (port < 0) {
    throw std::runtime_error("cannot listen on " + host + ":" + std::to_string(wish) +
                             "; choose another port");
  }
  // The main thread blocked these, and so does every thread that it started.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  std::thread stopper([&] {
    int signal = 0;
    sigwait(&signals, &signal);
    stopping = true;
    server.stop();
  });
  std::cout << "http://" << host << ":" << port << " " << settings.sessions << " sessions, "
            << pipeline.description() << std::endl;
  server.listen_after_bind();
  // Where listening ended by itself, the other thread still waits.
  if (!stopping) pthread_kill(stopper.native_handle(), SIGTERM);
  stopper.join();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "Usage: garment_transfer_server BUNDLE HOST PORT, such as 127.0.0.1 8080; with "
                 "port 0 any free one, which is printed\n";
    return 2;
  }
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // before any thread is started: they go to the one that waits for them
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  try {
    serve(argv[1], argv[2], std::atoi(argv[3]));
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
