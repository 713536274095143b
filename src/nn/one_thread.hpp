// Matrix products on one thread: a library may cut a sum into as many parts as there are threads.
#pragma once

#include <ATen/Parallel.h>

namespace syncbn {

/// While it lives, ATen and MKL compute on one thread.
class OneThread {
 public:
  OneThread() {
    if (threads_ > 1) at::set_num_threads(1);
  }
  ~OneThread() {
    if (threads_ > 1) at::set_num_threads(threads_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int threads_ = at::get_num_threads();
};

}  // namespace syncbn
