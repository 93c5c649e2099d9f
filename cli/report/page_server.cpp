#include "cli/report/page_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <random>
#include <string_view>
#include <system_error>

#include "cli/terminal/command_error.h"

namespace moetap::cli {
namespace {

constexpr size_t kMostRequestBytes = 8192;
constexpr int kSecondsToWait = 2;  // for a browser that stops in the middle of a request or an answer

[[noreturn]] void fail(const char* what) {
  throw CommandError(fmt::format("--watch: cannot {} on 127.0.0.1: {}", what, std::generic_category().message(errno)));
}

std::string random_secret() {
  std::random_device device;
  std::string secret;
  for (int i = 0; i < 4; ++i) secret += fmt::format("{:08x}", device());
  return secret;
}

void send_all(int connection, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the browser went away
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

void send_answer(int connection, std::string_view status, std::string_view type, std::string_view body) {
  send_all(
      connection,
      fmt::format("HTTP/1.1 {}\r\nContent-Type: {}; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n"
                  "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
                  status, type, body.size()));
  send_all(connection, body);
}

/// The head of a request; "": none came.
std::string read_head(int connection) {
  std::string head;
  char block[1024];
  while (head.find("\r\n\r\n") == std::string::npos && head.size() < kMostRequestBytes) {
    const ssize_t got = ::recv(connection, block, sizeof block, 0);
    if (got <= 0) return "";
    head.append(block, static_cast<size_t>(got));
  }
  return head;
}

}  // namespace

PageServer::PageServer() : secret_(random_secret()) {
  socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket_ < 0) fail("open a socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(socket_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(socket_, 16) != 0 ||
      ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    const int error = errno;
    ::close(socket_);
    errno = error;
    fail("listen");
  }
  port_ = ntohs(address.sin_port);
}

PageServer::~PageServer() {
  ::close(socket_);
}

std::string PageServer::address() const {
  return fmt::format("http://127.0.0.1:{}/{}/", port_, secret_);
}

void PageServer::set_page(std::string page, int64_t version) {
  page_ = std::move(page);
  version_ = version;
}

void PageServer::serve_for(int milliseconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now()).count();
    if (left <= 0) return;
    pollfd waiting{socket_, POLLIN, 0};
    if (::poll(&waiting, 1, static_cast<int>(left)) <= 0) return;  // nobody came, or a signal did
    const int connection = ::accept4(socket_, nullptr, nullptr, SOCK_CLOEXEC);
    if (connection < 0) continue;
    const timeval wait{kSecondsToWait, 0};
    ::setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
    ::setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    answer(connection);
    ::close(connection);
  }
}

void PageServer::answer(int connection) const {
  const std::string head = read_head(connection);
  const std::string_view first = std::string_view(head).substr(0, head.find("\r\n"));
  // A name that another site made point here is not answered.
  const bool is_own = head.find(fmt::format("\r\nHost: 127.0.0.1:{}\r\n", port_)) != std::string::npos ||
                      head.find(fmt::format("\r\nhost: 127.0.0.1:{}\r\n", port_)) != std::string::npos;
  const std::string path = "GET /" + secret_ + "/";
  if (!is_own || !first.starts_with("GET ")) return send_answer(connection, "400 Bad Request", "text/plain", "");
  if (first == path + " HTTP/1.1") return send_answer(connection, "200 OK", "text/html", page_);
  if (first == path + "version HTTP/1.1")
    return send_answer(connection, "200 OK", "text/plain", std::to_string(version_));
  send_answer(connection, "404 Not Found", "text/plain", "");
}

}  // namespace moetap::cli
