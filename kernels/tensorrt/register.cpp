// How TensorRT finds the plugin. This file makes one of two libraries out of it, since one cannot
// be both: IPluginRegistry::loadLibrary fails where a plugin of the library is registered already
// ("plugin creator of ... exists already"), which is always so once the library has registered
// itself on load.
//
// - Without GT_REGISTER_ON_LOAD: for IPluginRegistry::loadLibrary (`load_library` in Python,
//   trtexec --dynamicPlugins), and to travel inside an engine
//   (IBuilderConfig::setPluginsToSerialize). TensorRT looks for the two functions below by name. It
//   needs no symbol of libnvinfer, so that the lean runtime can load it too.
// - With it: for hosts that only dlopen (trtexec --staticPlugins, Triton). It needs libnvinfer and
//   exports nothing.
//
// Either fits the major version of TensorRT that it was compiled for, and no other: ILoggerFinder
// and IPluginRegistry differ in layout between 10 and 11.

#include <atomic>

#include "flow_warp_plugin.h"

namespace {

#ifdef GT_REGISTER_ON_LOAD

class Registration {
 public:
  Registration() {
    garment_transfer::set_find_logger([] { return getLogger(); });
    registered_ = getPluginRegistry()->registerCreator(
        static_cast<nvinfer1::IPluginCreatorInterface&>(creator_),
        garment_transfer::kPluginNamespace);
    // nothing to say where it is not: TensorRT has logged that the name is taken
  }
  // the registry outlives this library where it is closed before the process ends
  ~Registration() {
    if (!registered_) return;
    getPluginRegistry()->deregisterCreator(
        static_cast<const nvinfer1::IPluginCreatorInterface&>(creator_));
  }

 private:
  garment_transfer::FlowWarpPluginCreator creator_;
  bool registered_ = false;
};

const Registration registration;

#else

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

#endif

}  // namespace

#ifndef GT_REGISTER_ON_LOAD

// all else is hidden, by the compiler's options
#define GT_EXPORT extern "C" __attribute__((visibility("default")))

GT_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  logger_finder.store(finder);
  garment_transfer::set_find_logger([]() -> nvinfer1::ILogger* {
    nvinfer1::ILoggerFinder* const current = logger_finder.load();
    return current == nullptr ? nullptr : current->findLogger();
  });
}

GT_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  static garment_transfer::FlowWarpPluginCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  count = 1;
  return creators;
}

#endif
