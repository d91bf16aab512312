# For CMAKE_PROJECT_INCLUDE when building on the ROS 2 wheels: their *__rosidl_generator_py targets name an
# include folder that the wheels lack, which CMake refuses. The headers are found through other targets.
function(_drop_missing_include_folders)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    if(target MATCHES "__rosidl_generator_py$")
      set_property(TARGET ${target} PROPERTY INTERFACE_INCLUDE_DIRECTORIES)
    endif()
  endforeach()
endfunction()
cmake_language(DEFER CALL _drop_missing_include_folders)
