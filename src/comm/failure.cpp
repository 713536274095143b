#include "comm/failure.hpp"

#include <c10/util/Exception.h>

#include <new>
#include <system_error>

namespace syncbn {
namespace {

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

}  // namespace

Failure describe(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    return {e.code(), e.what()};
  } catch (const c10::OutOfMemoryError& e) {
    return {ExitCode::kSystem, first_line(e.what_without_backtrace())};
  } catch (const c10::AcceleratorError& e) {
    return {ExitCode::kSystem, first_line(e.what_without_backtrace())};
  } catch (const c10::Error& e) {
    const std::string text = e.what_without_backtrace();
    if (text.find("can't allocate memory") != std::string::npos) {  // the CPU allocator's words
      return {ExitCode::kSystem, "out of memory: " + first_line(text)};
    }
    return {ExitCode::kInvariant, first_line(e.what_without_backtrace())};
  } catch (const std::bad_alloc&) {
    return {ExitCode::kSystem, "out of memory"};
  } catch (const std::system_error& e) {
    return {ExitCode::kSystem, first_line(e.what())};
  } catch (const std::exception& e) {
    return {ExitCode::kInvariant, first_line(e.what())};
  } catch (...) {
    return {ExitCode::kInvariant, "an exception of unknown type"};
  }
}

}  // namespace syncbn
