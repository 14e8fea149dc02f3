# How the CUDA backend is built. Sets SY_CUDA_KIND to none, device or emulated, and defines
# sy_cuda_kernels(target files...), which makes the .cu files of a target be compiled that way.

set(SY_CUDA_ARCHS "80;90;100;103;120f" CACHE STRING
  "GPU architectures; 120f covers sm_120 and sm_121. PTX of compute_80 is added for others")
set(SY_CUDA_KIND none)

if(SY_CUDA STREQUAL "EMULATED")
  enable_language(CXX)
  set(CMAKE_CXX_STANDARD 17)
  set(CMAKE_CXX_STANDARD_REQUIRED ON)
  set(CMAKE_CXX_EXTENSIONS OFF)
  set(SY_CUDA_KIND emulated)
elseif(NOT SY_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_ARCHITECTURES OFF)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    enable_language(CXX CUDA)
    find_package(CUDAToolkit REQUIRED)
    if(CUDAToolkit_VERSION VERSION_LESS 12.9)
      message(STATUS "CUDA ${CUDAToolkit_VERSION} is too old (12.9 or later); building without")
    else()
      set(SY_CUDA_KIND device)
    endif()
  endif()
  if(SY_CUDA STREQUAL "ON" AND NOT SY_CUDA_KIND STREQUAL "device")
    message(FATAL_ERROR "SY_CUDA=ON, but no usable CUDA compiler was found (set CUDACXX)")
  endif()
endif()
message(STATUS "CUDA backend: ${SY_CUDA_KIND}")

# The kernels use nothing beyond compute_80, so that one PTX serves most architectures, which halves
# the time of compiling. From it, registers of sm_120 do not suffice for all kernels.
set(sy_cuda_gencode "-gencode=arch=compute_80,code=compute_80")
foreach(arch ${SY_CUDA_ARCHS})
  if(arch STREQUAL "120f")
    list(APPEND sy_cuda_gencode "-gencode=arch=compute_120f,code=sm_120"
      "-gencode=arch=compute_120f,code=sm_121")
  else()
    list(APPEND sy_cuda_gencode "-gencode=arch=compute_80,code=sm_${arch}")
  endif()
endforeach()

function(sy_cuda_kernels target)
  target_compile_definitions(${target} PUBLIC SY_WITH_CUDA)
  if(SY_CUDA_KIND STREQUAL "device")
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:${sy_cuda_gencode};-O3;-fmad=false;--threads=2>"
      "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra>"
      "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=-warn-spills,-warn-lmem-usage,-warn-double-usage>")
    if(SY_WERROR)
      target_compile_options(${target} PRIVATE
        "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror;-Xptxas=-Werror>")
    endif()
    target_include_directories(${target} SYSTEM PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
    target_link_libraries(${target} PUBLIC CUDA::cudart_static ${CMAKE_DL_LIBS})
    return()
  endif()
  target_compile_definitions(${target} PUBLIC SY_CUDA_EMULATED=1)
  target_link_libraries(${target} PUBLIC
    $<IF:$<BOOL:${SY_EMULATION_CHECK}>,sy_emulation_check,sy_emulation>)
  set(options -xc++ -std=c++17 -Wall -Wextra -Wno-unknown-pragmas -Wno-unused-function)
  if(SY_EMULATION_CHECK) # libtsan is not linked: the checker is behind these calls
    list(APPEND options -O1 -g -fsanitize=thread --param=tsan-instrument-func-entry-exit=0)
  elseif(SY_SANITIZE)
    list(APPEND options -O1 -g)
  else()
    list(APPEND options -O3 -g -march=native)
  endif()
  set_source_files_properties(${ARGN} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${options}")
endfunction()
