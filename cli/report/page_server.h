#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace moetap::cli {

/// Shows one page to browsers of this machine, over HTTP on 127.0.0.1 alone. Its address holds a secret, so that other
/// users of the machine, who can connect as well, see nothing. Answers GET of the page and of its version, one request
/// at a time. Not thread-safe.
class PageServer {
 public:
  /// Listens on a free port. Throws CommandError.
  PageServer();
  ~PageServer();
  PageServer(const PageServer&) = delete;
  PageServer& operator=(const PageServer&) = delete;

  std::string address() const;  // http://127.0.0.1:PORT/SECRET/

  /// The page from now on. Pages in browsers ask for the version, and load anew when it changed.
  void set_page(std::string page, int64_t version);

  /// Answers what comes within so many milliseconds.
  void serve_for(int milliseconds);

 private:
  void answer(int connection) const;

  int socket_ = -1;
  int port_ = 0;
  std::string secret_, page_;
  int64_t version_ = 0;
};

}  // namespace moetap::cli
