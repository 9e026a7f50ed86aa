// SPDX-License-Identifier: MIT
// A marble run without an end: clock goes from 0 to 1, and what is at 1 is what was at 0.
#version 3.7;
global_settings { assumed_gamma 1.0 max_trace_level 8 }

#declare Marbles = 9;
#declare Turn = 2 * pi * clock;

camera {
    location <7.5 * sin(0.35 * sin(Turn)), 4.6 + 0.6 * cos(Turn), -7.5 * cos(0.35 * sin(Turn))>
    look_at <0, 0.7, 0>
    angle 46
    right x * image_width / image_height
}
light_source { <6, 11, -7> rgb <1, 0.96, 0.9> area_light x * 1.2, z * 1.2, 3, 3 adaptive 1 jitter }
light_source { <-9, 5, -3> rgb <0.18, 0.22, 0.32> shadowless }
sky_sphere { pigment { gradient y color_map { [0 rgb <0.75, 0.82, 0.92>] [0.7 rgb <0.16, 0.3, 0.58>] } } }

plane {
    y, 0
    pigment { checker rgb <0.86, 0.85, 0.82>, rgb <0.30, 0.33, 0.38> scale 1.1 }
    finish { diffuse 0.75 reflection { 0.02, 0.25 } }
}

// The track: a ring that rises and falls twice a round.
#declare Height = function(a) { 1.05 + 0.55 * sin(2 * a) }
#declare Along = function(a, w) { w * cos(a) }
#declare Across = function(a, w) { w * sin(a) }
#macro On_track(A, W, Up) <Along(A, W), Height(A) + Up, Across(A, W)> #end

#declare Step = 0;
#while (Step < 90)
    #local A = 2 * pi * Step / 90;
    #local B = 2 * pi * (Step + 1) / 90;
    union {
        cylinder { On_track(A, 2.55, 0), On_track(B, 2.55, 0), 0.055 }
        cylinder { On_track(A, 2.95, 0), On_track(B, 2.95, 0), 0.055 }
        sphere { On_track(A, 2.55, 0), 0.055 }
        sphere { On_track(A, 2.95, 0), 0.055 }
        pigment { rgb <0.85, 0.62, 0.32> }
        finish { metallic 0.8 specular 0.7 roughness 0.03 reflection { 0.12, 0.35 metallic } }
    }
    #if (mod(Step, 10) = 0)
        cylinder {
            <2.75 * cos(A), 0, 2.75 * sin(A)>, On_track(A, 2.75, -0.06), 0.05
            pigment { rgb <0.45, 0.34, 0.22> }
        }
    #end
    #declare Step = Step + 1;
#end

// Each marble goes round once in a film, so that its end meets its beginning.
#declare Marble = 0;
#while (Marble < Marbles)
    #local A = 2 * pi * (Marble + clock * Marbles) / Marbles;
    sphere {
        On_track(A, 2.75, 0.3), 0.34
        #if (mod(Marble, 3) = 0)
            pigment { rgbf <0.75 + 0.2 * sin(Marble), 0.8, 0.95, 0.85> }
            finish { specular 0.9 roughness 0.005 reflection { 0.04, 0.6 fresnel } conserve_energy }
            interior { ior 1.45 }
        #else
            pigment { rgb <0.5 + 0.45 * cos(Marble * 1.7), 0.32 + 0.25 * sin(Marble * 2.3), 0.5 - 0.4 * cos(Marble)> }
            finish { diffuse 0.7 specular 0.8 roughness 0.01 reflection { 0.06, 0.2 } }
        #end
    }
    #declare Marble = Marble + 1;
#end

// In the middle a mirror, which sees all of it, and shows the time.
sphere {
    <0, 1.15 + 0.12 * sin(2 * Turn), 0>, 1.0
    pigment { rgb 0.9 }
    finish { ambient 0 diffuse 0.06 specular 0.8 roughness 0.004 reflection 0.86 }
}
cylinder { <0, 0.001, 0>, <0, 0.02, 0>, 1.6 pigment { rgb <0.2, 0.22, 0.26> } finish { reflection 0.1 } }
