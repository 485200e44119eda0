// garment_transfer_server: garment transfer over HTTP, with the same requests, answers and metrics
// as examples/python_server.
//
//   POST /transfer      multipart/form-data: the files person_image, person_parsing,
//                       person_densepose, garment_image, garment_parsing, garment_densepose and the
//                       fields person_label_set and garment_label_set; answers with a PNG
//   GET /health/live    200
//   GET /health/ready   200 while it takes requests, 503 while it stops
//   GET /metrics        Prometheus text
//
// A refusal is JSON, {"code": ..., "detail": ...}. Connections have threads of their own, so that a
// slow client holds one of these and nothing else; requests that are whole wait for one of the
// sessions. SIGTERM and SIGINT stop it: what was taken is answered.

#include <getopt.h>
#include <httplib.h>
#include <pthread.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <iterator>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <opencv2/core/utility.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "transfer.h"

namespace {

using Clock = std::chrono::steady_clock;

// A whole number that an option sets.
struct Option {
  const char* name;
  const char* about;
  int value, least, most;
};

const int kCores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));

struct Settings {
  std::string bundle;
  std::string host = "127.0.0.1";
  Option port{"port", "0: any free one, which is printed", 8080, 0, 65535};
  Option workers{"workers", "sessions, each on one thread", kCores, 1, 1024};
  Option max_pending{"max-pending", "requests at a time; one more is answered 429", 32, 1, 100000};
  Option connections{"connections", "clients that are served at once", 64, 1, 10000};
  Option max_body_mb{"max-body-mb", "largest request", 32, 1, 1024};
  Option max_side{"max-side", "most pixels on a side of an image", 4096, 32, example::kMaxSide};
  Option timeout{"timeout", "seconds without a byte until a connection ends", 10, 1, 3600};

  std::array<Option*, 7> options() {
    return {&port, &workers, &max_pending, &connections, &max_body_mb, &max_side, &timeout};
  }
};

std::string usage() {
  std::string text = "Usage: garment_transfer_server BUNDLE [--host 127.0.0.1]";
  for (const Option* each : Settings().options()) {
    text += std::string("\n  --") + each->name + " " + std::to_string(each->value) + "  " +
            each->about;
  }
  return text + "\n";
}

Settings settings_of(int argc, char** argv) {
  Settings settings;
  std::vector<option> known = {{"host", required_argument, nullptr, 0}};
  for (const Option* each : settings.options()) {
    known.push_back({each->name, required_argument, nullptr, 0});
  }
  known.push_back({});
  int index = 0;
  for (int found; (found = getopt_long(argc, argv, "", known.data(), &index)) != -1;) {
    if (found) throw std::invalid_argument("unknown option");  // getopt has said which
    if (!index) {
      settings.host = optarg;
      continue;
    }
    Option& one = *settings.options()[static_cast<std::size_t>(index - 1)];
    std::istringstream text(optarg);
    if (!(text >> one.value) || !text.eof() || one.value < one.least || one.value > one.most) {
      throw std::invalid_argument(std::string("--") + one.name + " is '" + optarg +
                                  "'; expected a number from " + std::to_string(one.least) +
                                  " to " + std::to_string(one.most));
    }
  }
  if (optind != argc - 1) throw std::invalid_argument("expected one bundle");
  settings.bundle = argv[optind];
  return settings;
}

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
  response.set_content(
      body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), "application/json");
}

example::PersonFiles files_of(const httplib::Request& request, const std::string& role) {
  const auto field = [&](const std::string& name) -> const std::string& {
    if (request.has_file(role + "_" + name)) {
      return request.files.find(role + "_" + name)->second.content;
    }
    throw example::InputError("fields_invalid",
                              "the form has no " + role + "_" + name +
                                  "; expected image, parsing, densepose and label_set of person "
                                  "and garment");
  };
  const auto file = [&](const std::string& name) {
    return example::PersonFiles::File{role + "_" + name, field(name)};
  };
  if (request.has_file(role + "_encoding")) {
    example::check_encoding(field("encoding"), role + "_encoding");
  }
  return {file("image"), file("parsing"), file("densepose"), field("label_set")};
}

// Answers a request for a transfer that holds a slot.
void transfer(const httplib::Request& request, httplib::Response& response, int max_side,
              Sessions& sessions, garment_transfer::Size size) {
  if (!request.is_multipart_form_data()) {
    return refuse(response, 400, "body_invalid", "the body is no form; expected multipart/form-data");
  }
  try {
    const example::PersonFiles person = files_of(request, "person");
    const example::PersonFiles owner = files_of(request, "garment");
    response.set_content(sessions.with([&](garment_transfer::Session& session) {
      return example::write_png(example::transfer(session, size,
                                                  example::read_person(person, max_side),
                                                  example::read_person(owner, max_side)));
    }), "image/png");
  } catch (const example::InputError& error) {
    const bool large = error.code() == std::string("image_size");
    refuse(response, large ? 413 : 422, large ? "too_large" : error.code(), error.what());
  }
}

void serve(const Settings& settings) {
  // Sessions are the parallelism.
  cv::setNumThreads(1);
  garment_transfer::Options options;
  options.threads = 1;
  const garment_transfer::Pipeline pipeline(settings.bundle, options);
  Sessions sessions(pipeline, settings.workers.value);
  Metrics metrics;
  std::atomic<bool> stopping{false};

  httplib::Server server;
  server.new_task_queue = [&] {
    return new httplib::ThreadPool(static_cast<std::size_t>(settings.connections.value));
  };
  server.set_tcp_nodelay(true);
  server.set_read_timeout(settings.timeout.value);
  server.set_write_timeout(settings.timeout.value);
  server.set_keep_alive_max_count(1000000);
  server.set_keep_alive_timeout(1);
  server.set_payload_max_length(static_cast<std::size_t>(settings.max_body_mb.value) * 1000000);

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
    if (metrics.pending.fetch_add(1) < settings.max_pending.value) {
      try {
        transfer(request, response, settings.max_side.value, sessions, pipeline.size());
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
  server.set_logger([&](const httplib::Request& request, const httplib::Response& response) {
    if (request.path == "/transfer") metrics.count(response.status);
  });

  const int wish = settings.port.value;
  const int port = wish ? (server.bind_to_port(settings.host, wish) ? wish : -1)
                        : server.bind_to_any_port(settings.host);
  if (port < 0) {
    throw std::runtime_error("cannot listen on " + settings.host + ":" + std::to_string(wish) +
                             "; choose another --port");
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
  std::cout << "http://" << settings.host << ":" << port << " " << settings.workers.value
            << " workers, " << pipeline.description() << std::endl;
  server.listen_after_bind();
  // Where listening ended by itself, the other thread still waits.
  if (!stopping) pthread_kill(stopper.native_handle(), SIGTERM);
  stopper.join();
}

}  // namespace

int main(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  // before any thread is started: they go to the one that waits for them
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  try {
    serve(settings_of(argc, argv));
  } catch (const std::invalid_argument& error) {
    std::cerr << "Error: " << error.what() << "\n" << usage();
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
