// garment_transfer_server: garment transfer over HTTP.
//
//   POST /transfer  multipart/form-data with the files person_photo, person_parse,
//                   person_densepose, garment_photo, garment_parse, garment_densepose and,
//                   where the parse maps are not in the seven classes, the fields
//                   person_label_set and garment_label_set; answers with a PNG
//   GET /health     200 while it takes requests, 503 while it stops
//   GET /metrics    Prometheus text
//
// Connections have threads of their own, so that a slow client holds one of these and nothing
// else; requests that are whole wait in a bounded queue for a worker, each with its session. A full
// queue answers 503. SIGTERM and SIGINT stop it: what was taken is answered.

#include <httplib.h>
#include <pthread.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <functional>
#include <future>
#include <iostream>
#include <map>
#include <memory>
#include <mutex>
#include <opencv2/core/utility.hpp>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "transfer.h"

namespace {

using Clock = std::chrono::steady_clock;

struct Settings {
  std::string bundle;
  std::string host = "127.0.0.1";
  int port = 8080;
  int workers = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  int queue = 32;
  int connections = 64;
  int max_body_mb = 16;
  int max_side = 4096;
  int timeout_s = 10;
};

// A whole number of an option in [least, most].
int number(const std::string& name, const std::string& value, int least, int most) {
  std::size_t end = 0;
  long found = 0;
  try {
    found = std::stol(value, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  if (!end || end != value.size() || found < least || found > most) {
    throw example::InputError(name + " is '" + value + "'; expected a number from " +
                              std::to_string(least) + " to " + std::to_string(most));
  }
  return static_cast<int>(found);
}

constexpr char kUsage[] =
    "Usage: garment_transfer_server BUNDLE [OPTIONS]\n"
    "  --host ADDRESS       where to listen [127.0.0.1]\n"
    "  --port N             0: any free one, which is printed [8080]\n"
    "  --workers N          sessions, each on one thread [one per core]\n"
    "  --queue N            requests that may wait for a worker [32]\n"
    "  --connections N      clients that are served at once [64]\n"
    "  --max-body-mb N      largest request [16]\n"
    "  --max-side N         most pixels on a side of a photo or map [4096]\n"
    "  --timeout N          seconds without a byte until a connection is closed [10]\n";

Settings settings_of(const std::vector<std::string>& arguments) {
  Settings settings;
  const std::map<std::string, std::tuple<int*, int, int>> numbers = {
      {"--port", {&settings.port, 0, 65535}},
      {"--workers", {&settings.workers, 1, 1024}},
      {"--queue", {&settings.queue, 1, 100000}},
      {"--connections", {&settings.connections, 1, 10000}},
      {"--max-body-mb", {&settings.max_body_mb, 1, 1024}},
      {"--max-side", {&settings.max_side, 32, example::kMaxSide}},
      {"--timeout", {&settings.timeout_s, 1, 3600}}};
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    const auto found = numbers.find(name);
    const bool option = found != numbers.end() || name == "--host";
    if (option && i + 1 == arguments.size()) {
      throw example::InputError(name + " has no value");
    }
    if (found != numbers.end()) {
      const auto& [target, least, most] = found->second;
      *target = number(name, arguments[++i], least, most);
    } else if (name == "--host") {
      settings.host = arguments[++i];
    } else if (name.rfind("-", 0) == 0 || !settings.bundle.empty()) {
      throw example::InputError("unknown argument '" + name + "'");
    } else {
      settings.bundle = name;
    }
  }
  if (settings.bundle.empty()) throw example::InputError("no bundle is named");
  return settings;
}

// Workers that take jobs from a bounded queue; each job gets its worker's session.
class Workers {
 public:
  using Job = std::function<void(garment_transfer::Session&)>;

  Workers(const garment_transfer::Pipeline& pipeline, int count, int queue)
      : most_(static_cast<std::size_t>(queue)) {
    // all before any thread, so that one that fails leaves none behind
    for (int i = 0; i < count; ++i) {
      sessions_.push_back(std::make_unique<garment_transfer::Session>(pipeline));
    }
    for (auto& session : sessions_) {
      threads_.emplace_back([this, &session] { work(*session); });
    }
  }

  // After the jobs that were taken.
  ~Workers() {
    {
      const std::lock_guard<std::mutex> lock(guard_);
      ending_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  // False where the queue is full.
  bool take(Job job) {
    {
      const std::lock_guard<std::mutex> lock(guard_);
      if (jobs_.size() >= most_) return false;
      jobs_.push_back(std::move(job));
    }
    wake_.notify_one();
    return true;
  }

  std::size_t waiting() const {
    const std::lock_guard<std::mutex> lock(guard_);
    return jobs_.size();
  }

 private:
  void work(garment_transfer::Session& session) {
    for (;;) {
      Job job;
      {
        std::unique_lock<std::mutex> lock(guard_);
        wake_.wait(lock, [this] { return ending_ || !jobs_.empty(); });
        if (jobs_.empty()) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      job(session);
    }
  }

  const std::size_t most_;
  mutable std::mutex guard_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  bool ending_ = false;
  std::vector<std::unique_ptr<garment_transfer::Session>> sessions_;
  std::vector<std::thread> threads_;
};

// Threads for connections; beyond them new ones wait to be accepted.
class Connections final : public httplib::TaskQueue {
 public:
  explicit Connections(std::size_t count) : free_(count), pool_(count) {}

  void enqueue(std::function<void()> serve) override {
    {
      std::unique_lock<std::mutex> lock(guard_);
      wake_.wait(lock, [this] { return free_ > 0; });
      --free_;
    }
    pool_.enqueue([this, serve = std::move(serve)] {
      serve();
      {
        const std::lock_guard<std::mutex> lock(guard_);
        ++free_;
      }
      wake_.notify_one();
    });
  }

  void shutdown() override { pool_.shutdown(); }

 private:
  std::mutex guard_;
  std::condition_variable wake_;
  std::size_t free_;
  httplib::ThreadPool pool_;
};

// Counters in the form that Prometheus reads.
class Metrics {
 public:
  void count(int code) {
    const std::lock_guard<std::mutex> lock(guard_);
    ++answers_[code];
  }

  void took(double seconds) {
    const std::lock_guard<std::mutex> lock(guard_);
    for (std::size_t i = 0; i < kBounds.size(); ++i) within_[i] += seconds <= kBounds[i];
    seconds_ += seconds;
    ++transfers_;
  }

  std::string text(std::size_t waiting, const Settings& settings) const {
    const std::lock_guard<std::mutex> lock(guard_);
    std::ostringstream out;
    const auto head = [&](const char* name, const char* type, const char* help) {
      out << "# HELP " << name << ' ' << help << "\n# TYPE " << name << ' ' << type << '\n';
    };
    head("garment_transfer_requests_total", "counter", "Answers to /transfer by status code.");
    for (const auto& [code, count] : answers_) {
      out << "garment_transfer_requests_total{code=\"" << code << "\"} " << count << '\n';
    }
    head("garment_transfer_seconds", "histogram",
         "From a whole request to its picture, waiting included.");
    for (std::size_t i = 0; i < kBounds.size(); ++i) {
      out << "garment_transfer_seconds_bucket{le=\"" << kBounds[i] << "\"} " << within_[i] << '\n';
    }
    out << "garment_transfer_seconds_bucket{le=\"+Inf\"} " << transfers_ << '\n'
        << "garment_transfer_seconds_sum " << seconds_ << '\n'
        << "garment_transfer_seconds_count " << transfers_ << '\n';
    head("garment_transfer_queue_length", "gauge", "Requests that wait for a worker.");
    out << "garment_transfer_queue_length " << waiting << '\n';
    head("garment_transfer_queue_capacity", "gauge", "Requests that may wait.");
    out << "garment_transfer_queue_capacity " << settings.queue << '\n';
    head("garment_transfer_workers", "gauge", "Sessions.");
    out << "garment_transfer_workers " << settings.workers << '\n';
    return out.str();
  }

 private:
  static constexpr std::array<double, 10> kBounds = {0.01, 0.025, 0.05, 0.1, 0.25,
                                                     0.5,  1,     2.5,  5,   10};
  mutable std::mutex guard_;
  std::map<int, unsigned long> answers_;
  std::array<unsigned long, kBounds.size()> within_{};
  double seconds_ = 0;
  unsigned long transfers_ = 0;
};

struct Answer {
  int code = 200;
  std::string body;
};

example::PersonFiles files_of(const httplib::Request& request, const std::string& role) {
  const auto file = [&](const std::string& field) {
    const std::string name = role + "_" + field;
    if (!request.has_file(name)) {
      throw example::InputError("the form has no file " + name +
                                "; expected person_photo, person_parse, person_densepose, "
                                "garment_photo, garment_parse and garment_densepose");
    }
    return example::PersonFiles::File{name, request.get_file_value(name).content};
  };
  example::PersonFiles files{file("photo"), file("parse"), file("densepose")};
  if (request.has_file(role + "_label_set")) {
    files.label_set = request.get_file_value(role + "_label_set").content;
  }
  return files;
}

Answer answer(const std::array<example::PersonFiles, 2>& files, int max_side,
              garment_transfer::Session& session, garment_transfer::Size size) {
  try {
    const example::Person person = example::read_person(files[0], max_side);
    const example::Person owner = example::read_person(files[1], max_side);
    return {200, example::write_png(example::transfer(session, size, person, owner))};
  } catch (const example::InputError& error) {
    return {400, error.what()};
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << std::endl;
    return {500, error.what()};
  }
}

void serve(const Settings& settings) {
  // Workers are the parallelism.
  cv::setNumThreads(1);
  garment_transfer::Options options;
  options.threads = 1;
  const garment_transfer::Pipeline pipeline(settings.bundle, options);
  const garment_transfer::Size size = pipeline.size();
  Workers workers(pipeline, settings.workers, settings.queue);
  Metrics metrics;
  std::atomic<bool> stopping{false};

  httplib::Server server;
  server.new_task_queue = [&] {
    return new Connections(static_cast<std::size_t>(settings.connections));
  };
  server.set_tcp_nodelay(true);
  server.set_read_timeout(settings.timeout_s);
  server.set_write_timeout(settings.timeout_s);
  server.set_keep_alive_max_count(1000000);
  server.set_keep_alive_timeout(1);
  server.set_payload_max_length(static_cast<std::size_t>(settings.max_body_mb) << 20);

  server.Get("/health", [&](const httplib::Request&, httplib::Response& response) {
    response.status = stopping ? 503 : 200;
    response.set_content(stopping ? "stopping\n" : "ok\n", "text/plain");
  });
  server.Get("/metrics", [&](const httplib::Request&, httplib::Response& response) {
    response.set_content(metrics.text(workers.waiting(), settings), "text/plain; version=0.0.4");
  });
  server.Post("/transfer", [&](const httplib::Request& request, httplib::Response& response) {
    const auto start = Clock::now();
    Answer made;
    try {
      if (!request.is_multipart_form_data()) {
        made = {415, "the body is no form; expected multipart/form-data with the files "
                     "person_photo, person_parse, person_densepose, garment_photo, garment_parse "
                     "and garment_densepose"};
      } else {
        auto files = std::make_shared<std::array<example::PersonFiles, 2>>(
            std::array{files_of(request, "person"), files_of(request, "garment")});
        auto promise = std::make_shared<std::promise<Answer>>();
        auto result = promise->get_future();
        if (workers.take([&settings, size, files, promise](garment_transfer::Session& session) {
              promise->set_value(answer(*files, settings.max_side, session, size));
            })) {
          made = result.get();
        } else {
          made = {503, "every worker is busy and the queue is full; try again"};
          response.set_header("Retry-After", "1");
        }
      }
    } catch (const example::InputError& error) {
      made = {400, error.what()};
    }
    response.status = made.code;
    if (made.code == 200) {
      metrics.took(std::chrono::duration<double>(Clock::now() - start).count());
      response.set_content(std::move(made.body), "image/png");
    } else {
      response.set_content(made.body + "\n", "text/plain; charset=utf-8");
    }
  });
  server.set_logger([&](const httplib::Request& request, const httplib::Response& response) {
    if (request.path == "/transfer") metrics.count(response.status);
  });

  const int port = settings.port ? (server.bind_to_port(settings.host, settings.port)
                                        ? settings.port
                                        : -1)
                                 : server.bind_to_any_port(settings.host);
  if (port < 0) {
    throw example::InputError("cannot listen on " + settings.host + ":" +
                              std::to_string(settings.port) + "; choose another --port");
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
  std::cout << "http://" << settings.host << ":" << port << " " << settings.workers
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
    serve(settings_of({argv + 1, argv + argc}));
  } catch (const example::InputError& error) {
    std::cerr << "Error: " << error.what() << "\n" << kUsage;
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
  }
}
