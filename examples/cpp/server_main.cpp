// garment_transfer_server: garment transfer over HTTP, with the interface of
// examples/python_server: POST /transfer, GET /health/live, /health/ready and /metrics. What that
// server's OpenAPI document says holds here.
//
// A connection has a thread while it is open, for at most UPLOAD_SECONDS until its request is
// there; of more than MAX_UPLOADS whose requests arrive the oldest makes way. So slow clients keep
// nobody from a session. SIGTERM and SIGINT stop it: what was taken is answered.
//
// Settings are environment variables, GARMENT_TRANSFER_ and the name:
//
//   SESSIONS        each on one thread [one per core]
//   MAX_PENDING     requests at a time, whose body has arrived; one more is answered 429 [32]
//   MAX_UPLOADS     connections whose requests arrive, or that wait for their next one [64]
//   MAX_BODY_MB     megabytes of a request; more is answered 413 [32]
//   MAX_MEGAPIXELS  of the photo and of each map; more is answered 413 [4]
//   UPLOAD_SECONDS  for a request to arrive, or 408; and for its answer to leave [30]

#include <httplib.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

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
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "images.h"

namespace {

using Clock = std::chrono::steady_clock;

// The whole number that a text is; `name` is what messages call it.
int number(const std::string& name, const std::string& text, int least, int most) {
  std::istringstream in(text);
  int value = 0;
  if (in >> value && in.eof() && value >= least && value <= most) return value;
  throw std::invalid_argument(name + " is '" + text + "'; expected a number from " +
                              std::to_string(least) + " to " + std::to_string(most));
}

// One of the environment, such as GARMENT_TRANSFER_MAX_PENDING.
int setting(const std::string& name, int otherwise, int most) {
  const std::string variable = "GARMENT_TRANSFER_" + name;
  const char* value = std::getenv(variable.c_str());
  return value ? number(variable, value, 1, most) : otherwise;
}

struct Settings {
  int sessions = setting("SESSIONS", std::max(1, int(std::thread::hardware_concurrency())), 1024);
  // together not more than cpp-httplib's select can wait for
  int max_pending = setting("MAX_PENDING", 32, 256);
  int max_uploads = setting("MAX_UPLOADS", 64, 512);
  int max_body_mb = setting("MAX_BODY_MB", 32, 1024);
  int max_megapixels = setting("MAX_MEGAPIXELS", 4, 64);
  int upload_seconds = setting("UPLOAD_SECONDS", 30, 3600);

  std::uint64_t max_body() const { return std::uint64_t(max_body_mb) * 1000000; }
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

// A connection of limited patience: all of a request has a time to arrive in, not each byte.
class Connection : public httplib::Stream {
 public:
  Connection(socket_t socket, const Settings& settings) : socket_(socket), settings_(settings) {
    begin();
  }

  // From here a request, or an answer, has its time.
  void begin() {
    sending_ = false;
    deadline_ = Clock::now() + std::chrono::seconds(settings_.upload_seconds);
    room_ = 100000;  // for headers
  }

  // The headers are read, and a body may follow.
  void expect_body() { room_ += settings_.max_body(); }

  // Ends it from another thread.
  void end() {
    ended_ = true;
    shutdown(socket_, sending_ ? SHUT_RDWR : SHUT_RD);
  }

  // Whether it may make way for another one.
  bool can_end() const { return !working && !ended_; }

  bool waits(short events) const {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline_.load() - Clock::now());
    pollfd of{socket_, events, 0};
    return left.count() > 0 && poll(&of, 1, int(left.count())) > 0;
  }

  ssize_t read(char* to, size_t size) override {
    ssize_t count = 0;
    if (room_ < size) {
      status = 413;
    } else if (ended_ || !waits(POLLIN)) {
      status = 408;
    } else if ((count = recv(socket_, to, size, 0)) <= 0) {
      status = ended_ ? 408 : 499;
    }
    if (count <= 0) return -1;
    room_ -= std::uint64_t(count);
    return count;
  }

  ssize_t write(const char* from, size_t size) override {
    if (!sending_) begin();
    sending_ = true;
    return waits(POLLOUT) ? send(socket_, from, size, MSG_DONTWAIT | MSG_NOSIGNAL) : -1;
  }

  // So that a client that still sends gets to read its answer.
  void drain() {
    shutdown(socket_, SHUT_WR);
    begin();
    expect_body();
    for (char rest[16384]; read(rest, sizeof rest) > 0;) continue;
  }

  bool is_readable() const override { return waits(POLLIN); }
  bool is_writable() const override { return waits(POLLOUT); }
  // Nobody here asks for addresses.
  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return socket_; }
  Clock::time_point deadline() const { return deadline_; }

  // Why a request was not read: 408, 413, or 499 where the client left; 0 where it was.
  int status = 0;
  // Whether nothing more is read from it once the answer is sent.
  bool last = false;
  // Whether its request is there and the answer is not; and whether no request has begun.
  std::atomic<bool> working{false}, idle{true};

 private:
  const socket_t socket_;
  const Settings& settings_;
  std::atomic<Clock::time_point> deadline_;
  std::uint64_t room_ = 0;
  std::atomic<bool> ended_{false}, sending_{false};
};

// Which connection this thread serves.
thread_local Connection* this_connection = nullptr;

// cpp-httplib's server with connections of the kind above.
class Server : public httplib::Server {
 public:
  explicit Server(const Settings& settings) : settings_(settings) {}

  // Takes nothing new, and ends connections that only wait.
  void stop_gently() {
    stop();
    const std::lock_guard<std::mutex> lock(guard_);
    for (Connection* one : open_) {
      if (one->idle) one->end();
    }
  }

 private:
  bool process_and_close_socket(socket_t socket) override {
    Connection connection(socket, settings_);
    this_connection = &connection;
    {
      const std::lock_guard<std::mutex> lock(guard_);
      open_.insert(&connection);
      const auto older = [](const Connection* one, const Connection* other) {
        return std::pair(!one->can_end(), one->deadline()) <
               std::pair(!other->can_end(), other->deadline());
      };
      const auto arriving = std::count_if(open_.begin(), open_.end(),
                                          [](const Connection* one) { return one->can_end(); });
      if (arriving > settings_.max_uploads) {
        (*std::min_element(open_.begin(), open_.end(), older))->end();
      }
    }
    bool answered = true, closed = false;
    while (answered && !closed && !connection.last && svr_sock_ != INVALID_SOCKET &&
           connection.waits(POLLIN)) {
      connection.begin();
      connection.idle = false;
      answered = process(&Server::process_request, connection, closed);
      connection.begin();
      connection.idle = true;
    }
    if (connection.last) connection.drain();
    const std::lock_guard<std::mutex> lock(guard_);
    open_.erase(&connection);
    close(socket);
    return answered;
  }

  // One request and its answer; cpp-httplib 0.18 wants to know the ends' addresses, too.
  using Setup = std::function<void(httplib::Request&)>;
  bool process(bool (httplib::Server::*by)(httplib::Stream&, bool, bool&, const Setup&),
               Connection& connection, bool& closed) {
    return (this->*by)(connection, false, closed, nullptr);
  }
  bool process(bool (httplib::Server::*by)(httplib::Stream&, const std::string&, int,
                                           const std::string&, int, bool, bool&, const Setup&),
               Connection& connection, bool& closed) {
    return (this->*by)(connection, "", 0, "", 0, false, closed, nullptr);
  }

  const Settings& settings_;
  std::mutex guard_;
  std::set<Connection*> open_;
};

// The person of one role, from files and fields of a form.
garment_transfer::Person person_of(const httplib::Request& request, const std::string& role,
                                   double max_megapixels,
                                   const garment_transfer::Pipeline& pipeline) {
  std::string missing;
  int maps = 0;
  const auto content = [&](const char* field) -> std::string {
    const auto found = request.files.find(role + "_" + field);
    if (found != request.files.end()) {
      ++maps;
      return found->second.content;
    }
    missing += (missing.empty() ? "" : ", ") + role + "_" + field;
    return {};
  };
  example::Files files;
  files.image = {role + "_image", content("image")};
  if (!maps) throw example::InputError("fields_invalid", missing + " is missing");
  files.parsing = {role + "_parsing", content("parsing")};
  files.densepose = {role + "_densepose", content("densepose")};
  files.label_set = content("label_set");
  files.densepose_encoding = content("encoding");
  if (maps > 1 && !missing.empty()) {
    throw example::InputError("fields_invalid",
                              "the form lacks " + missing + "; send them, or the photo alone");
  }
  if (maps == 1) files.name = role + "_image";
  return example::read_person(files, pipeline, max_megapixels);
}

// Answers a request for a transfer that holds a slot.
void transfer(const httplib::Request& request, httplib::Response& response, double max_megapixels,
              Sessions& sessions, const garment_transfer::Pipeline& pipeline) {
  if (request.files.size() > 10) {
    return refuse(response, 400, "body_invalid", "more than 6 files and 4 fields");
  }
  try {
    response.set_content(sessions.with([&](garment_transfer::Session& session) {
      const auto finished =
          session.transfer(person_of(request, "person", max_megapixels, pipeline),
                           person_of(request, "garment", max_megapixels, pipeline));
      return example::write_png(finished.size.height, finished.size.width, finished.image.data());
    }),
                         "image/png");
  } catch (const example::InputError& error) {
    refuse(response, error.code() == std::string("too_large") ? 413 : 422, error.code(),
           error.what());
  } catch (const garment_transfer::Error& error) {
    // what is wrong with photos and maps is the client's
    if (error.status() != GT_ARRAY_INVALID && error.status() < GT_IMAGE_MODE) throw;
    refuse(response, 422, error.code(), error.what());
  }
}

// Answers what needs no body, before one is read; whether it did.
bool answered_at_once(const httplib::Request& request, httplib::Response& response,
                      const Settings& settings) {
  static const std::map<std::string, std::string> allowed = {{"/transfer", "POST"},
                                                             {"/health/live", "GET, HEAD"},
                                                             {"/health/ready", "GET, HEAD"},
                                                             {"/metrics", "GET, HEAD"}};
  const std::string length = request.get_header_value("Content-Length");
  const bool chunked = request.has_header("Transfer-Encoding");
  const auto here = allowed.find(request.path);
  const bool takes =
      here != allowed.end() &&
      (", " + here->second + ",").find(", " + request.method + ",") != std::string::npos;
  this_connection->last = request.method != "POST" && (chunked || !length.empty());
  // Ranges may be ignored, and answers to many would be put together in memory.
  const_cast<httplib::Request&>(request).ranges.clear();
  if (here == allowed.end()) {
    refuse(response, 404, "not_found",
           "there is nothing here; there is /transfer, /health/live, /health/ready, /metrics");
  } else if (!takes) {
    response.set_header("Allow", here->second + ", OPTIONS");
    response.status = 204;
    if (request.method == "OPTIONS") return true;
    refuse(response, 405, "method_not_allowed",
           request.method + " is not allowed here; " + here->second + " is");
  } else if (request.method != "POST") {
    return false;
  } else if (std::strtoull(length.c_str(), nullptr, 10) > settings.max_body()) {
    refuse(response, 413, "too_large",
           "the request has more than " + std::to_string(settings.max_body_mb) +
               " MB; send smaller files");
  } else if (request.has_header("Content-Encoding")) {
    // it may become a thousand times as large
    refuse(response, 400, "body_invalid", "the body is compressed; send it without");
  } else if (!request.is_multipart_form_data() || (length.empty() && !chunked)) {
    refuse(response, 400, "body_invalid",
           "the body is not multipart/form-data; send the files as a form");
  } else {
    this_connection->expect_body();
    return false;
  }
  this_connection->last = true;
  return true;
}

// Gives what cpp-httplib refuses by itself the shape of a refusal.
void explain(httplib::Response& response) {
  const int why = this_connection->status ? this_connection->status : response.status;
  this_connection->last = true;
  if (why == 413) {
    refuse(response, why, "too_large", "the request is too large; send smaller files");
  } else if (why == 408) {
    refuse(response, why, "upload_timeout",
           "the request did not arrive in time, or made way for others; send smaller files");
  } else if (why == 500) {
    refuse(response, why, "internal_error", "the server failed");
  } else {
    refuse(response, why, "body_invalid", "the request is broken or not whole");
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

  Server server(settings);
  server.new_task_queue = [&] {
    // and some for those that make way
    return new httplib::ThreadPool(std::size_t(settings.max_pending + settings.max_uploads + 8));
  };
  server.set_tcp_nodelay(true);
  server.set_payload_max_length(settings.max_body());
  server.set_pre_routing_handler(httplib::Server::HandlerWithResponse(
      [&](const httplib::Request& request, httplib::Response& response) {
        return answered_at_once(request, response, settings)
                   ? httplib::Server::HandlerResponse::Handled
                   : httplib::Server::HandlerResponse::Unhandled;
      }));
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
    this_connection->working = true;
    if (metrics.pending.fetch_add(1) < settings.max_pending) {
      try {
        transfer(request, response, settings.max_megapixels, sessions, pipeline);
      } catch (const std::exception& error) {
        std::cerr << "Error: " << error.what() << std::endl;
        const auto* known = dynamic_cast<const garment_transfer::Error*>(&error);
        const bool foreseen = known && known->status() != GT_INTERNAL_ERROR;
        refuse(response, 500, foreseen ? known->code() : "internal_error",
               foreseen ? error.what() : "the server failed, and its log says why");
      }
    } else {
      response.set_header("Retry-After", "1");
      refuse(response, 429, "busy",
             "all " + std::to_string(settings.max_pending) +
                 " slots are taken; send it again after the seconds in Retry-After");
    }
    --metrics.pending;
    this_connection->begin();  // before others see it
    this_connection->working = false;
    if (response.status == -1) {  // not refused
      metrics.took(std::chrono::duration<double>(Clock::now() - start).count());
    }
  });
  server.set_error_handler(httplib::Server::HandlerWithResponse(
      [](const httplib::Request&, httplib::Response& response) {
        if (response.body.empty()) explain(response);
        return httplib::Server::HandlerResponse::Handled;
      }));
  // before the answer is sent: who has it finds it counted
  server.set_post_routing_handler(
      [&](const httplib::Request& request, httplib::Response& response) {
        if (request.path == "/transfer" && request.method == "POST") metrics.count(response.status);
        if (this_connection->last) response.set_header("Connection", "close");
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
    server.stop_gently();
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
    serve(argv[1], argv[2], number("PORT", argv[3], 0, 65535));
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
